/* `native_work FUNCTION NUMBER`: what the module work.wasm does, compiled for the machine itself. */

#include "../../fixtures/wasm/work.c"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name;
    uint32_t (*call)(uint32_t);
} FUNCTIONS[] = {{"sha256", sha256}, {"primes", primes}, {"fib", fib}, {"collatz", collatz}};

int main(int count, char **arguments) {
    for (size_t i = 0; count == 3 && i < sizeof FUNCTIONS / sizeof *FUNCTIONS; i++)
        if (!strcmp(FUNCTIONS[i].name, arguments[1])) {
            printf("%u\n", FUNCTIONS[i].call((uint32_t)strtoul(arguments[2], NULL, 10)));
            return 0;
        }
    return 1;
}
