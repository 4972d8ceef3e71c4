/* Runs the samples on the accelerator, and prints the class of each. */
#include "insitu.h"
#include "network.h"

#define UART ((volatile uint32_t *)UART_BASE)

static void print(const char *text)
{
    for (; *text; text++) {
        while (UART[1]) /* txfull */
            ;
        UART[0] = (uint8_t)*text;
    }
}

static void __attribute__((noreturn)) stop(insitu_error error)
{
    print(insitu_message(error));
    print("\n");
    for (;;)
        ;
}

int main(void)
{
    insitu_device device;
    static uint32_t output[OUTPUT_WORDS];
    insitu_error error = insitu_open(&device, INSITU_BASE, 10000000);
    if (!error)
        error = insitu_load(&device, &network);
    for (int sample = 0; !error && sample < SAMPLES; sample++) {
        error = insitu_infer(&device, samples[sample], output);
        const int8_t *values = (const int8_t *)output;
        int best = 0;
        for (int n = 1; n < CLASSES; n++)
            if (values[n] > values[best])
                best = n;
        const char digit[3] = {(char)('0' + best), '\n', 0};
        if (!error) {
            print("class ");
            print(digit);
        }
    }
    stop(error);
}
