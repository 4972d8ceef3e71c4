/* Driver of an insitu accelerator on the bus of a processor (docs/host.md).
 *
 * insitu_registers.h comes from: insitu verilog --config NAME --header insitu_registers.h */
#ifndef INSITU_H
#define INSITU_H

#include <stddef.h>
#include <stdint.h>

/* What there is to know of an image: its payload, and where its maps lie. Addresses are bytes in
   activation memory, multiples of 4. */
typedef struct {
    const uint32_t *payload;
    uint32_t payload_words;
    uint32_t payload_crc; /* CRC-32 (zlib) of the payload's bytes */
    uint32_t input_address, input_words;
    uint32_t output_address, output_words;
} insitu_image;

typedef struct {
    uintptr_t base;    /* where the core is on the bus */
    uint32_t patience; /* looks at STATUS before a wait is given up */
    const insitu_image *image; /* what is loaded, or NULL */
} insitu_device;

typedef enum {
    INSITU_OK,
    INSITU_NOT_THERE,    /* no accelerator at this address */
    INSITU_OTHER_VERSION,
    INSITU_OTHER_CONFIGURATION,
    INSITU_DOES_NOT_FIT, /* a map or the payload is larger than its memory */
    INSITU_NOT_LOADED,   /* infer without a load that went well */
    INSITU_TIMEOUT,      /* still at work after `patience` looks */
    INSITU_BAD_CRC,      /* memory does not hold what was written */
    INSITU_FAILED        /* STATUS shows an error, or no run */
} insitu_error;

/* Looks for the accelerator that insitu_registers.h describes. */
insitu_error insitu_open(insitu_device *device, uintptr_t base, uint32_t patience);

/* Writes the payload, and checks it there. The image must outlive its use. */
insitu_error insitu_load(insitu_device *device, const insitu_image *image);

/* Writes input_words words, runs, and reads output_words words; bytes in memory order, the first in
   bits 7-0. What is in `output` counts only after INSITU_OK. */
insitu_error insitu_infer(insitu_device *device, const uint32_t *input, uint32_t *output);

/* Clock cycles of the last run. */
uint32_t insitu_cycles(const insitu_device *device);

/* What went wrong and what to do, for people. */
const char *insitu_message(insitu_error error);

/* Access to the bus: defined here as volatile loads and stores, or by the program where it is
   compiled with INSITU_OWN_BUS. */
uint32_t insitu_read(uintptr_t base, uint32_t offset);
void insitu_write(uintptr_t base, uint32_t offset, uint32_t word);

#endif
