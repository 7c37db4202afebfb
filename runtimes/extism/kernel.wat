;; The module that stands beside every plug-in: the memory through which plug-in and host hand each other bytes,
;; and all that a plug-in imports from `extism:host/env`. What only touches memory is done here, without leaving
;; WebAssembly; for the rest it calls the host, and the host reads and writes this memory.
;;
;; Offsets are i64, as plug-ins count them; none is 2^32 or more. A plug-in may write wherever blocks can be, over
;; the headers of its own blocks too: it harms nobody else, since nothing outside of this memory can be reached, and
;; the host checks every range that it is told.
;;
;;      0   what the host reads: output offset, output length, error offset, error length; 8 bytes each
;;     64   for each class of size, the first free block, or 0; 4 bytes each
;;   1024   blocks, from here to the end: 16 bytes of header, then the content
;;
;; A block's header, before its offset:
;;    -16   its seal: its offset, muddled, while it is in use; another number when it is free
;;    -12   its class
;;     -8   the length that was asked for
;;     -4   the next free block of its class
;;
;; Blocks are made one behind the other. A free one is used again for a block of its class and never split or
;; joined: a plug-in lives as long as a call, and has the memory to itself. Everything takes the same few steps
;; however many blocks there are.
(module $extism_kernel
  (import "spear:extism" "grow" (func $host_grow (param $pages i32) (result i32)))
  (import "spear:extism" "config_get"
    (func $host_config_get (param $key i32) (param $length i32) (result i64)))
  (import "spear:extism" "var_get"
    (func $host_var_get (param $key i32) (param $length i32) (result i64)))
  (import "spear:extism" "var_set"
    (func $host_var_set (param $key i32) (param $length i32) (param $value i64) (param $value_length i32)))
  (import "spear:extism" "http_request"
    (func $host_http_request
      (param $request i32) (param $length i32) (param $body i64) (param $body_length i32) (result i64)))
  (import "spear:extism" "http_status_code" (func $host_http_status_code (result i32)))
  (import "spear:extism" "http_headers" (func $host_http_headers (result i64)))
  (import "spear:extism" "take" (func $host_take (param $offset i32)))
  (import "spear:extism" "log"
    (func $host_log (param $level i32) (param $message i32) (param $length i32)))
  (import "spear:extism" "get_log_level" (func $host_get_log_level (result i32)))

  (memory (export "extism kernel memory") 1)

  (global $output i32 (i32.const 0))
  (global $error i32 (i32.const 16))
  (global $free_lists i32 (i32.const 64))
  (global $blocks i32 (i32.const 1024))
  (global $header i32 (i32.const 16))
  (global $muddle i32 (i32.const 0x5ea1b10c))
  (global $longest i64 (i64.const 0x7fff0000))

  ;; Where the next new block's header goes.
  (global $top (mut i32) (i32.const 1024))
  ;; Bytes from $blocks to the end of the memory, of which there is one page at first.
  (global $room (mut i64) (i64.const 64512))
  (global $input_offset (mut i64) (i64.const 0))
  (global $input_length (mut i64) (i64.const 0))

  ;; --- blocks ---------------------------------------------------------------------------------------------------

  ;; Sizes come in classes, eight for each power of two, so that at most an eighth of a block is not used. A size is
  ;; counted in units of 16 bytes and rounded up to one that has four significant bits.
  (func $exponent (param $units i32) (result i32)
    (select
      (i32.sub (i32.const 28) (i32.clz (local.get $units)))
      (i32.const 0)
      (i32.ge_u (local.get $units) (i32.const 8))))

  (func $free_list (param $class i32) (result i32)
    (i32.add (global.get $free_lists) (i32.shl (local.get $class) (i32.const 2))))

  (func $alloc (export "alloc") (param $length i64) (result i64)
    (local $units i32) (local $exponent i32) (local $mantissa i32) (local $class i32) (local $block i32)
    (if (i64.gt_u (i64.sub (local.get $length) (i64.const 1)) (global.get $longest))
      (then (return (i64.const 0))))
    (local.set $units
      (i32.wrap_i64 (i64.shr_u (i64.add (local.get $length) (i64.const 15)) (i64.const 4))))
    (local.set $exponent (call $exponent (local.get $units)))
    (local.set $mantissa
      (i32.shr_u
        (i32.add (local.get $units) (i32.sub (i32.shl (i32.const 1) (local.get $exponent)) (i32.const 1)))
        (local.get $exponent)))
    (local.set $class (i32.add (i32.shl (local.get $exponent) (i32.const 3)) (local.get $mantissa)))
    (local.set $block (call $used_again (local.get $class)))
    (if (i32.eqz (local.get $block))
      (then
        (local.set $block
          (call $new_block
            (i32.shl (local.get $mantissa) (i32.add (local.get $exponent) (i32.const 4)))))))
    (if (local.get $block)
      (then (call $seal (local.get $block) (local.get $class) (i32.wrap_i64 (local.get $length)))))
    (i64.extend_i32_u (local.get $block)))

  (func $used_again (param $class i32) (result i32)
    (local $list i32) (local $block i32)
    (local.set $list (call $free_list (local.get $class)))
    (local.set $block (i32.load (local.get $list)))
    (if (local.get $block)
      (then
        (i32.store (local.get $list) (i32.load (i32.sub (local.get $block) (i32.const 4))))))
    (local.get $block))

  ;; A block of so many bytes at the end of the others; 0 where there is no room.
  (func $new_block (param $size i32) (result i32)
    (local $block i32) (local $end i64)
    (local.set $block (i32.add (global.get $top) (global.get $header)))
    (local.set $end
      (i64.add (i64.extend_i32_u (local.get $block)) (i64.extend_i32_u (local.get $size))))
    (if (i32.eqz (call $reach (local.get $end)))
      (then (return (i32.const 0))))
    (global.set $top (i32.wrap_i64 (local.get $end)))
    (local.get $block))

  ;; Grow the memory, if need be, so that it has `end` bytes; whether it has.
  (func $reach (param $end i64) (result i32)
    (local $missing i64) (local $pages i32)
    (local.set $missing
      (i64.sub (i64.sub (local.get $end) (i64.extend_i32_u (global.get $blocks))) (global.get $room)))
    (if (i64.le_s (local.get $missing) (i64.const 0))
      (then (return (i32.const 1))))
    (local.set $pages
      (i32.wrap_i64 (i64.shr_u (i64.add (local.get $missing) (i64.const 65535)) (i64.const 16))))
    (if (i32.eqz (call $grow_well (local.get $pages)))
      (then (return (i32.const 0))))
    (global.set $room
      (i64.sub
        (i64.shl (i64.extend_i32_u (memory.size)) (i64.const 16))
        (i64.extend_i32_u (global.get $blocks))))
    (i32.const 1))

  ;; By as much as there is already, so that many small blocks do not ask the host often; else by what is needed.
  (func $grow_well (param $pages i32) (result i32)
    (if (i32.lt_u (local.get $pages) (memory.size))
      (then
        (if (call $host_grow (memory.size)) (then (return (i32.const 1))))))
    (call $host_grow (local.get $pages)))

  (func $seal (param $block i32) (param $class i32) (param $length i32)
    (i32.store
      (i32.sub (local.get $block) (i32.const 16))
      (i32.xor (local.get $block) (global.get $muddle)))
    (i32.store (i32.sub (local.get $block) (i32.const 12)) (local.get $class))
    (i32.store (i32.sub (local.get $block) (i32.const 8)) (local.get $length)))

  ;; Whether a block in use begins at an offset.
  (func $is_block (param $offset i64) (result i32)
    (if
      (i64.ge_u
        (i64.sub
          (local.get $offset)
          (i64.extend_i32_u (i32.add (global.get $blocks) (global.get $header))))
        (global.get $room))
      (then (return (i32.const 0))))
    (i32.eq
      (i32.load (i32.sub (i32.wrap_i64 (local.get $offset)) (i32.const 16)))
      (i32.xor (i32.wrap_i64 (local.get $offset)) (global.get $muddle))))

  (func $free (export "free") (param $offset i64)
    (local $block i32) (local $list i32)
    (if (i32.eqz (call $is_block (local.get $offset)))
      (then (return)))
    (local.set $block (i32.wrap_i64 (local.get $offset)))
    (local.set $list
      (call $free_list
        (i32.and (i32.load (i32.sub (local.get $block) (i32.const 12))) (i32.const 0xff))))
    (i32.store (i32.sub (local.get $block) (i32.const 16)) (i32.const 0))
    (i32.store (i32.sub (local.get $block) (i32.const 4)) (i32.load (local.get $list)))
    (i32.store (local.get $list) (local.get $block))
    (if (i64.eq (local.get $offset) (global.get $input_offset))
      (then (global.set $input_length (i64.const 0)))))

  ;; The length of a block, 0 for what is none.
  (func $length (export "length") (export "length_unsafe") (param $offset i64) (result i64)
    (if (i32.eqz (call $is_block (local.get $offset)))
      (then (return (i64.const 0))))
    (i64.load32_u (i32.sub (i32.wrap_i64 (local.get $offset)) (i32.const 8))))

  (func $length32 (param $offset i64) (result i32)
    (i32.wrap_i64 (call $length (local.get $offset))))

  ;; Forget all blocks and what was in them, the input, the output and the error.
  (func $reset (export "reset")
    (memory.fill (i32.const 0) (i32.const 0) (global.get $top))
    (global.set $top (global.get $blocks))
    (global.set $input_offset (i64.const 0))
    (global.set $input_length (i64.const 0)))

  (func (export "memory_bytes") (result i64)
    (i64.shl (i64.extend_i32_u (memory.size)) (i64.const 16)))

  ;; --- loads and stores: outside of where blocks can be, the one gives 0 and the other does nothing ---------------

  (func $place (param $offset i64) (result i64)
    (i64.sub (local.get $offset) (i64.extend_i32_u (global.get $blocks))))

  (func (export "load_u8") (param $offset i64) (result i32)
    (if (i64.ge_u (call $place (local.get $offset)) (global.get $room))
      (then (return (i32.const 0))))
    (i32.load8_u (i32.wrap_i64 (local.get $offset))))

  (func (export "load_u64") (param $offset i64) (result i64)
    (if
      (i64.gt_u (call $place (local.get $offset)) (i64.sub (global.get $room) (i64.const 8)))
      (then (return (i64.const 0))))
    (i64.load (i32.wrap_i64 (local.get $offset))))

  (func (export "store_u8") (param $offset i64) (param $value i32)
    (if (i64.ge_u (call $place (local.get $offset)) (global.get $room))
      (then (return)))
    (i32.store8 (i32.wrap_i64 (local.get $offset)) (local.get $value)))

  (func (export "store_u64") (param $offset i64) (param $value i64)
    (if
      (i64.gt_u (call $place (local.get $offset)) (i64.sub (global.get $room) (i64.const 8)))
      (then (return)))
    (i64.store (i32.wrap_i64 (local.get $offset)) (local.get $value)))

  ;; --- input, output, error ---------------------------------------------------------------------------------------

  ;; For the host, before each call: an empty memory with a block for so many bytes of input, whose offset it
  ;; returns; 0 where there is no room. Plug-ins are not offered this one.
  (func (export "begin") (param $length i64) (result i64)
    (call $reset)
    (global.set $input_offset (call $alloc (local.get $length)))
    (if (i64.ne (global.get $input_offset) (i64.const 0))
      (then (global.set $input_length (local.get $length))))
    (global.get $input_offset))

  (func (export "input_offset") (result i64) (global.get $input_offset))

  (func (export "input_length") (result i64) (global.get $input_length))

  (func (export "input_load_u8") (param $index i64) (result i32)
    (if (i64.ge_u (local.get $index) (global.get $input_length))
      (then (return (i32.const 0))))
    (i32.load8_u (i32.wrap_i64 (i64.add (global.get $input_offset) (local.get $index)))))

  (func (export "input_load_u64") (param $index i64) (result i64)
    (if
      (i32.or
        (i64.lt_u (global.get $input_length) (i64.const 8))
        (i64.gt_u (local.get $index) (i64.sub (global.get $input_length) (i64.const 8))))
      (then (return (i64.const 0))))
    (i64.load (i32.wrap_i64 (i64.add (global.get $input_offset) (local.get $index)))))

  (func (export "output_set") (param $offset i64) (param $length i64)
    (i64.store (global.get $output) (local.get $offset))
    (i64.store offset=8 (global.get $output) (local.get $length)))

  ;; 0 means: there is no error after all.
  (func (export "error_set") (param $offset i64)
    (i64.store (global.get $error) (local.get $offset))
    (i64.store offset=8 (global.get $error) (call $length (local.get $offset))))

  ;; --- what the host knows ----------------------------------------------------------------------------------------

  ;; What a plug-in hands over, a key, a value, a message, a request, is freed for it. That comes last: a plug-in that
  ;; frees it once more then does not hit what it was given.

  ;; The host has something of that size for the plug-in: it goes into a new block. Below 0 it has nothing.
  (func $fetched (param $size i64) (result i64)
    (local $block i64)
    (if (i64.le_s (local.get $size) (i64.const 0))
      (then (return (i64.const 0))))
    (local.set $block (call $alloc (local.get $size)))
    (call $host_take (i32.wrap_i64 (local.get $block)))
    (local.get $block))

  (func (export "config_get") (param $key i64) (result i64)
    (call $fetched
      (call $host_config_get (i32.wrap_i64 (local.get $key)) (call $length32 (local.get $key))))
    (call $free (local.get $key)))

  (func (export "var_get") (param $key i64) (result i64)
    (call $fetched
      (call $host_var_get (i32.wrap_i64 (local.get $key)) (call $length32 (local.get $key))))
    (call $free (local.get $key)))

  (func (export "var_set") (param $key i64) (param $value i64)
    (call $host_var_set
      (i32.wrap_i64 (local.get $key)) (call $length32 (local.get $key))
      (local.get $value) (call $length32 (local.get $value)))
    (call $free (local.get $key))
    (call $free (local.get $value)))

  (func (export "http_request") (param $request i64) (param $body i64) (result i64)
    (call $fetched
      (call $host_http_request
        (i32.wrap_i64 (local.get $request)) (call $length32 (local.get $request))
        (local.get $body) (call $length32 (local.get $body))))
    (call $free (local.get $request))
    (call $free (local.get $body)))

  (func (export "http_status_code") (result i32) (call $host_http_status_code))

  (func (export "http_headers") (result i64) (call $fetched (call $host_http_headers)))

  (func (export "get_log_level") (result i32) (call $host_get_log_level))

  (func $log (param $level i32) (param $message i64)
    (call $host_log
      (local.get $level) (i32.wrap_i64 (local.get $message)) (call $length32 (local.get $message)))
    (call $free (local.get $message)))

  (func (export "log_trace") (param $message i64) (call $log (i32.const 0) (local.get $message)))
  (func (export "log_debug") (param $message i64) (call $log (i32.const 1) (local.get $message)))
  (func (export "log_info") (param $message i64) (call $log (i32.const 2) (local.get $message)))
  (func (export "log_warn") (param $message i64) (call $log (i32.const 3) (local.get $message)))
  (func (export "log_error") (param $message i64) (call $log (i32.const 4) (local.get $message))))
