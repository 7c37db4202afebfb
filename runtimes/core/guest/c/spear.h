/* spear.h: write functions for the `core` runtime in C. Needs no libc; lives well beside one.
 *
 * A module is one or more C files that include this header. Exactly one of them defines
 * SPEAR_IMPLEMENTATION first, which adds the allocator through which the host passes bytes:
 *
 *     #define SPEAR_IMPLEMENTATION
 *     #include "spear.h"
 *
 *     SPEAR_EXPORT("add") int32_t add(int32_t left, int32_t right) {     // a numeric function
 *         return left + right;
 *     }
 *
 *     SPEAR_EXPORT("shout") uint64_t shout(uint8_t *data, uint32_t len) { // a bytes function
 *         for (uint32_t i = 0; i < len; i++)
 *             if (data[i] >= 'a' && data[i] <= 'z') data[i] -= 32;
 *         return spear_return(data, len);
 *     }
 *
 * Build it:
 *
 *     clang --target=wasm32 -O2 -ffreestanding -mbulk-memory -nostdlib -I <this folder> \
 *           -Wl,--no-entry,--stack-first -o shout.wasm shout.c
 *
 * The contract that this header serves, and how to build with zig, is in runtimes/core/README.md.
 */
#ifndef SPEAR_H
#define SPEAR_H

#if !defined(__wasm32__)
#error "spear.h is for wasm32: compile with --target=wasm32 (clang) or -target wasm32-freestanding (zig cc)"
#endif

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Makes the function that follows callable from outside under `name`. */
#define SPEAR_EXPORT(name) __attribute__((export_name(name), used))

/* Bytes that someone else owns. */
typedef struct {
    const uint8_t *data;
    uint32_t len;
} spear_bytes;

/* Views a zero-terminated text, without the zero. */
static inline spear_bytes spear_text(const char *text) {
    spear_bytes bytes = {(const uint8_t *)text, 0};
    while (text[bytes.len] != '\0') bytes.len++;
    return bytes;
}

/* What a bytes function returns: where its result is. The bytes must stay in place after the return, so they
 * are static, from spear_alloc, or the input itself; never a local array. */
static inline uint64_t spear_return(const void *data, uint32_t len) {
    return (uint64_t)len << 32 | (uint32_t)(uintptr_t)data;
}

static inline uint64_t spear_return_text(const char *text) {
    spear_bytes bytes = spear_text(text);
    return spear_return(bytes.data, bytes.len);
}

enum { SPEAR_TRACE, SPEAR_DEBUG, SPEAR_INFO, SPEAR_WARN, SPEAR_ERROR };

/* Appends a line to the execution's log, its level in front: "warn: it is late". Returns 0. */
__attribute__((import_module("spear"), import_name("log")))
int32_t spear_log(int32_t level, const void *text, uint32_t len);

static inline void spear_log_text(int32_t level, const char *text) {
    spear_bytes bytes = spear_text(text);
    spear_log(level, bytes.data, bytes.len);
}

/* Appends bytes to the execution's log as they are. No newline is added. */
__attribute__((import_module("spear"), import_name("write_log")))
void spear_write_log(const void *data, uint32_t len);

/* Sends bytes as a message to a caller who streams; returns when there is room for it. Elsewhere they are dropped. */
__attribute__((import_module("spear"), import_name("emit")))
void spear_emit(const void *data, uint32_t len);

static inline void spear_emit_text(const char *text) {
    spear_bytes bytes = spear_text(text);
    spear_emit(bytes.data, bytes.len);
}

/* Returns after so many milliseconds; not at all where the call's time is over before. Costs no CPU time. */
__attribute__((import_module("spear"), import_name("sleep_ms")))
void spear_sleep_ms(int32_t duration);

/* The time since 1970 began, in milliseconds and in seconds. */
__attribute__((import_module("spear"), import_name("time_now_ms")))
int64_t spear_time_now_ms(void);

__attribute__((import_module("spear"), import_name("wall_time_s")))
int64_t spear_wall_time_s(void);

/* 64 bits that nobody can foresee. */
__attribute__((import_module("spear"), import_name("random_i64")))
int64_t spear_random_i64(void);

/* Ends the call at once: it fails with GUEST_ERROR and this UTF-8 message. */
__attribute__((import_module("spear"), import_name("fail"), noreturn))
void spear_fail(const void *message, uint32_t len);

__attribute__((noreturn))
static inline void spear_fail_text(const char *message) {
    spear_bytes bytes = spear_text(message);
    spear_fail(bytes.data, bytes.len);
}

/* Gives `size` bytes, aligned to 16, or NULL where the memory cannot grow that far. The host takes room for
 * the input from it, and so may you. Nothing is ever freed: a sandbox serves one call. */
SPEAR_EXPORT("spear_alloc") void *spear_alloc(uint32_t size);

#ifdef SPEAR_IMPLEMENTATION

#if defined(__wasi__)

/* A libc owns the heap: take from it. */
#include <stdlib.h>

void *spear_alloc(uint32_t size) {
    return malloc(size != 0 ? size : 1);
}

#else

/* Everything above the linker's data is ours. Addresses are computed in 64 bits, where they cannot wrap. */
extern uint8_t __heap_base;
static uint64_t spear_heap_next;

void *spear_alloc(uint32_t size) {
    const uint64_t page = 65536;
    uint64_t start = spear_heap_next != 0 ? spear_heap_next : (uint32_t)(uintptr_t)&__heap_base;
    start = (start + 15) & ~(uint64_t)15;
    uint64_t end = start + size;
    uint64_t have = __builtin_wasm_memory_size(0) * page;
    if (end > UINT32_MAX) return 0;
    if (end > have && __builtin_wasm_memory_grow(0, (uint32_t)((end - have + page - 1) / page)) == (__SIZE_TYPE__)-1) return 0;
    spear_heap_next = end;
    return (void *)(uintptr_t)start;
}

#endif /* __wasi__ */
#endif /* SPEAR_IMPLEMENTATION */

#ifdef __cplusplus
}
#endif

#endif /* SPEAR_H */
