/* The network as a filter on the host: input bytes in, output bytes out, again and again until the input ends. */

#include <stdint.h>
#include <stdio.h>

#include "bknn_network.h"

static int8_t input[BKNN_NETWORK_INPUT_SIZE];
static int8_t output[BKNN_NETWORK_OUTPUT_SIZE];
static _Alignas(64) uint8_t arena[BKNN_NETWORK_ARENA_SIZE > 0 ? BKNN_NETWORK_ARENA_SIZE : 1];

int main(void) {
    while (fread(input, 1, sizeof input, stdin) == sizeof input) {
        bknn_network_infer(BKNN_NETWORK_ARENA_SIZE > 0 ? arena : (uint8_t *)0, input, output);
        if (fwrite(output, 1, sizeof output, stdout) != sizeof output || fflush(stdout) != 0) {
            return 1;
        }
    }
    return 0;
}
