/* dripgate on a microcontroller: a verdict on each sample, at once, on the device.
 *
 * C99, no operating system, no malloc. The net's memory is one static arena, sized at compile
 * time; the policy's is a struct of yours. Not reentrant: one net, one arena.
 *
 *     dripgate_verdict verdict;
 *     dripgate_decide(sample, &verdict);
 *     if (verdict.decision != DRIPGATE_DROP) store(sample);
 */
#ifndef DRIPGATE_H
#define DRIPGATE_H

#include <stdint.h>

#include "dripgate_config.h"
#include "dripgate_policy.h"
#if DRIPGATE_ADAPTS
#include "dripgate_adapt.h"
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Lets a policy have the last word: rules are copied into state, which begins anew. Without this
 * call the gate's band decides, and nothing of the policy is linked. Returns 0, or -1 where the
 * rules are out of range or ask for what was not compiled in; nothing changes then. */
int dripgate_init(dripgate_policy *state, const dripgate_rules *rules);

/* Goes on with a state kept over a sleep or a restart. */
void dripgate_resume(dripgate_policy *state);

/* The present time in seconds, for budgets; any clock that never goes back. */
void dripgate_time(double seconds);

/* One sample: DRIPGATE_SAMPLE_LENGTH values, in the layout the gate was fitted with (images:
 * row by row, channels last; audio: 16-bit PCM). It is only read. */
void dripgate_decide(const dripgate_sample *sample, dripgate_verdict *out);

/* The gate's own verdict, whatever the policy; changes no state of it. */
void dripgate_gate(const dripgate_sample *sample, dripgate_verdict *out);

/* DRIPGATE_CLASSES logits of the last sample. */
const float *dripgate_logits(void);

/* 0 where this build gives what onnxruntime gave, else the number of the first wrong vector. A head
 * that learns is tested as it was deployed. */
int dripgate_selftest(void);

#ifdef __cplusplus
}
#endif
#endif
