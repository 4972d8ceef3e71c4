#include "insitu.h"

#include "insitu_registers.h"

#ifndef INSITU_OWN_BUS
uint32_t insitu_read(uintptr_t base, uint32_t offset)
{
    return *(volatile uint32_t *)(base + offset);
}

void insitu_write(uintptr_t base, uint32_t offset, uint32_t word)
{
    *(volatile uint32_t *)(base + offset) = word;
}
#endif

static insitu_error wait(const insitu_device *device, uint32_t bits)
{
    for (uint32_t look = 0; look < device->patience; look++) {
        if (!(insitu_read(device->base, INSITU_STATUS) & bits))
            return INSITU_OK;
    }
    return INSITU_TIMEOUT;
}

/* Waits for what is at work, and forgets what was. */
static insitu_error settle(const insitu_device *device)
{
    insitu_error error = wait(device, INSITU_STATUS_BUSY | INSITU_STATUS_CRC_BUSY);
    if (!error)
        insitu_write(device->base, INSITU_CONTROL, INSITU_CONTROL_CLEAR);
    return error;
}

static insitu_error check_crc(const insitu_device *device, uint32_t address, uint32_t words,
                              uint32_t expected)
{
    insitu_write(device->base, INSITU_CRC_ADDRESS, address);
    insitu_write(device->base, INSITU_CRC_LENGTH, words);
    insitu_error error = wait(device, INSITU_STATUS_CRC_BUSY);
    if (error)
        return error;
    return insitu_read(device->base, INSITU_CRC_VALUE) == expected ? INSITU_OK : INSITU_BAD_CRC;
}

static int fits(uint32_t address, uint32_t words, uint32_t bytes)
{
    return address % 4 == 0 && address <= bytes && words <= (bytes - address) / 4;
}

insitu_error insitu_open(insitu_device *device, uintptr_t base, uint32_t patience)
{
    device->base = base;
    device->patience = patience;
    device->image = NULL;
    if (insitu_read(base, INSITU_IDENTITY) != INSITU_IDENTITY_VALUE)
        return INSITU_NOT_THERE;
    uint32_t version = insitu_read(base, INSITU_VERSION);
    if (version >> INSITU_VERSION_MAJOR_SHIFT !=
            INSITU_VERSION_VALUE >> INSITU_VERSION_MAJOR_SHIFT ||
        ((version ^ INSITU_VERSION_VALUE) & INSITU_VERSION_IMAGE_FORMAT_MASK))
        return INSITU_OTHER_VERSION;
    if (insitu_read(base, INSITU_DIGEST) != INSITU_DIGEST_VALUE)
        return INSITU_OTHER_CONFIGURATION;
    return INSITU_OK;
}

insitu_error insitu_load(insitu_device *device, const insitu_image *image)
{
    device->image = NULL;
    if (!fits(0, image->payload_words, INSITU_COEFFICIENT_BYTES) ||
        !fits(image->input_address, image->input_words, INSITU_ACTIVATION_BYTES) ||
        !fits(image->output_address, image->output_words, INSITU_ACTIVATION_BYTES))
        return INSITU_DOES_NOT_FIT;
    insitu_error error = settle(device);
    if (error)
        return error;
    insitu_write(device->base, INSITU_LOCK, INSITU_UNLOCK);
    for (uint32_t n = 0; n < image->payload_words; n++)
        insitu_write(device->base, INSITU_COEFFICIENT_MEMORY + 4 * n, image->payload[n]);
    insitu_write(device->base, INSITU_LOCK, 0);
    error = check_crc(device, INSITU_COEFFICIENT_MEMORY, image->payload_words, image->payload_crc);
    if (error)
        return error;
    if (insitu_read(device->base, INSITU_STATUS) != INSITU_STATUS_LOCKED)
        return INSITU_FAILED;
    device->image = image;
    return INSITU_OK;
}

insitu_error insitu_infer(insitu_device *device, const uint32_t *input, uint32_t *output)
{
    const insitu_image *image = device->image;
    if (!image)
        return INSITU_NOT_LOADED;
    insitu_error error = settle(device);
    if (error)
        return error;
    uint32_t at = INSITU_ACTIVATION_MEMORY + image->input_address;
    for (uint32_t n = 0; n < image->input_words; n++)
        insitu_write(device->base, at + 4 * n, input[n]);
    insitu_write(device->base, INSITU_CONTROL, INSITU_CONTROL_START);
    error = wait(device, INSITU_STATUS_BUSY);
    if (error)
        return error;
    at = INSITU_ACTIVATION_MEMORY + image->output_address;
    for (uint32_t n = 0; n < image->output_words; n++)
        output[n] = insitu_read(device->base, at + 4 * n);
    /* Anything else is an error, or no run at all. */
    if (insitu_read(device->base, INSITU_STATUS) != (INSITU_STATUS_LOCKED | INSITU_STATUS_DONE))
        return INSITU_FAILED;
    return INSITU_OK;
}

uint32_t insitu_cycles(const insitu_device *device)
{
    return insitu_read(device->base, INSITU_CYCLES);
}

const char *insitu_message(insitu_error error)
{
    switch (error) {
    case INSITU_OK: return "done";
    case INSITU_NOT_THERE: return "no accelerator at this address: check the bus and the address";
    case INSITU_OTHER_VERSION: return "hardware of another version: generate the Verilog again";
    case INSITU_OTHER_CONFIGURATION: return "another configuration: generate the header again";
    case INSITU_DOES_NOT_FIT: return "the image does not fit: compile the model again";
    case INSITU_NOT_LOADED: return "no image is loaded: call insitu_load first";
    case INSITU_TIMEOUT: return "still at work: allow more patience, or reset the core";
    case INSITU_BAD_CRC: return "the image did not arrive whole: load it again";
    case INSITU_FAILED: return "the core refused or failed: load the image again";
    }
    return "no such error";
}
