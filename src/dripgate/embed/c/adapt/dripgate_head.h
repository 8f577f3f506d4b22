/* The head as deployed, the one that the net reads now, and the memory of the initial data. */
#ifndef DRIPGATE_HEAD_H
#define DRIPGATE_HEAD_H

#include <stdint.h>

#include "dripgate_config.h"

extern const float dripgate_deployed[DRIPGATE_HEAD];
extern const float *dripgate_head;
#if DRIPGATE_MEMORY > 0
extern const uint16_t dripgate_memory[DRIPGATE_MEMORY][DRIPGATE_FEATURES]; /* 16-bit floats */
extern const int16_t dripgate_memory_class[DRIPGATE_MEMORY];
#endif

#endif
