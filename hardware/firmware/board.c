/* Runs one inference on a simulated Cortex-M board and tells its output bytes, its SysTick ticks and its deepest stack.
 *
 * The emulator puts the input bytes into `input` before the first instruction; everything else is said through
 * semihosting, as lines "name hex-digits".
 */

#include <stdint.h>

#include "bknn_network.h"

#define SYSTICK_CONTROL (*(volatile uint32_t *)0xE000E010u)
#define SYSTICK_RELOAD (*(volatile uint32_t *)0xE000E014u)
#define SYSTICK_VALUE (*(volatile uint32_t *)0xE000E018u)
#define INTERRUPT_STATE (*(volatile uint32_t *)0xE000ED04u)
#define SYSTICK_PENDING (1u << 26)
#define COPROCESSOR_ACCESS (*(volatile uint32_t *)0xE000ED88u)
#define PERIOD 0x1000000u

#define SEMIHOSTING_WRITE0 0x04u
#define SEMIHOSTING_EXIT 0x18u
#define APPLICATION_EXIT 0x20026u
#define RUN_TIME_ERROR 0x20023u

#define PAINT 0xA5u

extern uint32_t data_load[], data_start[], data_end[], bss_start[], bss_end[];
extern uint8_t guard_start[], guard_end[], stack_start[], stack_end[];

extern const int8_t input[];
static int8_t output[BKNN_NETWORK_OUTPUT_SIZE];
/* Larger than BKNN_NETWORK_ARENA_SIZE where vector kernels need more scratch memory than the planned ones. */
__attribute__((section(".arena"), aligned(16))) static uint8_t arena[ARENA_BYTES > 0 ? ARENA_BYTES : 1];

static volatile uint32_t periods;

static void call_host(uint32_t operation, uint32_t argument) {
    register uint32_t r0 __asm__("r0") = operation;
    register uint32_t r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
}

static void say(const char *text) { call_host(SEMIHOSTING_WRITE0, (uint32_t)text); }

static void say_hex(uint64_t value, int num_digits) {
    static const char digits[] = "0123456789abcdef";
    char text[17];
    text[num_digits] = 0;
    for (int i = num_digits - 1; i >= 0; --i) {
        text[i] = digits[value & 15u];
        value >>= 4;
    }
    say(text);
}

static void say_number(const char *name, uint64_t value) {
    say(name);
    say_hex(value, 16);
    say("\n");
}

void on_fault(void) {
    say("fault\n");
    call_host(SEMIHOSTING_EXIT, RUN_TIME_ERROR);
    for (;;) {
    }
}

/* The counter has 24 bits: each period that it ends is counted here. */
void on_systick(void) { ++periods; }

/* Ticks since the counter was started. */
static uint64_t __attribute__((noinline)) now(void) {
    __asm__ volatile("cpsid i" ::: "memory");
    uint32_t value = SYSTICK_VALUE;
    uint32_t ended = periods;
    if (INTERRUPT_STATE & SYSTICK_PENDING) {
        /* A period ended around the reading: read again, surely after its end, and count it. */
        value = SYSTICK_VALUE;
        ++ended;
    }
    __asm__ volatile("cpsie i" ::: "memory");
    return (uint64_t)ended * PERIOD + (PERIOD - 1u - value);
}

static void start_counter(void) {
    SYSTICK_RELOAD = PERIOD - 1u;
    SYSTICK_VALUE = 0;
    SYSTICK_CONTROL = 7u; /* the processor's own clock, with interrupt, on */
    while (SYSTICK_VALUE == 0) {
    }
}

static void paint(uint8_t *start, const uint8_t *end) {
    for (volatile uint8_t *at = start; at < end; ++at) {
        *at = PAINT;
    }
}

static const uint8_t *first_unpainted(const uint8_t *start, const uint8_t *end) {
    while (start < end && *start == PAINT) {
        ++start;
    }
    return start;
}

static void __attribute__((noinline)) infer(void) {
    bknn_network_infer(BKNN_NETWORK_ARENA_SIZE > 0 ? arena : (uint8_t *)0, input, output);
}

static void __attribute__((noinline)) nothing(void) { __asm__ volatile(""); }

void on_reset(void) {
    COPROCESSOR_ACCESS |= 0xFu << 20; /* floating point and vector registers, where there are any */
    __asm__ volatile("dsb\n isb" ::: "memory");
    const uint32_t *load = data_load;
    for (uint32_t *at = data_start; at < data_end; ++at) {
        *at = *load++;
    }
    for (uint32_t *at = bss_start; at < bss_end; ++at) {
        *at = 0;
    }
    paint(guard_start, guard_end);
    uint8_t *here;
    __asm__ volatile("mov %0, sp" : "=r"(here));
    paint(stack_start, here - 64);

    start_counter();
    const uint64_t t0 = now();
    nothing();
    const uint64_t t1 = now();
    infer();
    const uint64_t t2 = now();

    say_number("nothing ", t1 - t0);
    say_number("ticks ", t2 - t1);
    say_number("stack ", (uint64_t)(stack_end - first_unpainted(stack_start, stack_end)));
    say_number("overflow ", (uint64_t)(first_unpainted(guard_start, guard_end) != guard_end));
    say("output ");
    for (uint32_t i = 0; i < BKNN_NETWORK_OUTPUT_SIZE; ++i) {
        say_hex((uint8_t)output[i], 2);
    }
    say("\n");
    call_host(SEMIHOSTING_EXIT, APPLICATION_EXIT);
    for (;;) {
    }
}

__attribute__((used, section(".vectors"))) static void (*const vectors[16])(void) = {
    (void (*)(void))stack_end, on_reset, on_fault, on_fault, on_fault, on_fault, on_fault, on_fault,
    on_fault, on_fault, on_fault, on_fault, on_fault, on_fault, on_fault, on_systick,
};
