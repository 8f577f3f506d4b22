/* The head learns on the device: from kept samples, when their labels come.
 *
 * Features of what is kept go into a ring of DRIPGATE_RING slots, in RAM or in flash. A label may
 * come at any time later, by id. Each call of dripgate_learn is a bounded piece of work. The head
 * that the net reads, forward and backward, is the one in your dripgate_learner; the deployed one
 * and a memory of the initial data stay in flash and keep it from forgetting.
 *
 *     static dripgate_features ring[DRIPGATE_RING];
 *     static dripgate_learner learner;
 *     const dripgate_storage storage = dripgate_ram(ring);
 *     dripgate_adapt(&learner, &storage);
 *     ...
 *     dripgate_decide(sample, &verdict);
 *     if (verdict.decision != DRIPGATE_DROP) dripgate_remember(id, verdict.propensity);
 *     ...
 *     dripgate_label(id, 3);
 *     dripgate_learn();
 *
 * The same arithmetic as dripgate.adapting.step in Python, from features rounded to 16-bit floats.
 */
#ifndef DRIPGATE_ADAPT_H
#define DRIPGATE_ADAPT_H

#include <stdint.h>

#include "dripgate_config.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Kept samples that can wait for a label; each takes 2 bytes a feature, and 10 bytes of RAM. */
#ifndef DRIPGATE_RING
#define DRIPGATE_RING 128
#endif
/* Labelled samples that one dripgate_learn goes through, each with one vector of the memory. */
#ifndef DRIPGATE_LEARN_STEPS
#define DRIPGATE_LEARN_STEPS 16
#endif
/* Length of a step, and how strongly it is held back to the deployed head. */
#ifndef DRIPGATE_LEARN_RATE
#define DRIPGATE_LEARN_RATE 0.1f
#endif
#ifndef DRIPGATE_LEARN_PULL
#define DRIPGATE_LEARN_PULL 0.001f
#endif

/* What the head's last layer reads of one sample, as IEEE 16-bit floats. */
typedef uint16_t dripgate_features[DRIPGATE_FEATURES];

/* Where features are kept. read and write return 0, or anything else where they failed; slots are
 * written in order, 0 ... DRIPGATE_RING - 1, then from 0 again. page: how many slots are erased
 * together, a divisor of DRIPGATE_RING; write must erase them when slot % page is 0, and what
 * they held is then forgotten. */
typedef struct {
    int (*read)(void *context, uint32_t slot, dripgate_features *out);
    int (*write)(void *context, uint32_t slot, const dripgate_features *in);
    void *context;
    uint32_t page;
} dripgate_storage;

/* All that is learned. A plain struct: keep it in retained memory to go on after a sleep, or write
 * it to flash from time to time. */
typedef struct {
    uint32_t gate;                  /* which gate it belongs to */
    uint32_t next, cursor, replay;  /* slots: written next, learned from next; memory: next */
    /* Labels that came for samples nothing was learned from yet; how many of them the head had
     * right as it was then, and how many the deployed one has. */
    uint32_t judged, right, deployed_right;
    float head[DRIPGATE_HEAD];      /* weights, then biases, as the net reads them */
    uint32_t id[DRIPGATE_RING];
    float weight[DRIPGATE_RING];
    int16_t label[DRIPGATE_RING];   /* -1: none yet; -2: the slot is empty */
} dripgate_learner;

/* The storage for a ring in RAM, of DRIPGATE_RING slots. */
dripgate_storage dripgate_ram(dripgate_features *ring);

/* Begins anew with the deployed head and an empty ring; storage is copied. Returns 0, or -1 where
 * page does not divide DRIPGATE_RING. Without this call the deployed head decides, and nothing of
 * this is linked. */
int dripgate_adapt(dripgate_learner *state, const dripgate_storage *storage);

/* Goes on with a state kept over a sleep or a restart. Returns 0, or -1 where it is damaged or
 * another gate's; the deployed head decides then. */
int dripgate_adapt_resume(dripgate_learner *state, const dripgate_storage *storage);

/* Puts the features of the sample decided last into the ring, over the oldest. propensity as in
 * its verdict: what is rarely kept counts more, up to ten times. Returns 0, or -1 where they are
 * not finite or could not be written. */
int dripgate_remember(uint32_t id, double propensity);

/* The class of a remembered sample, an index into DRIPGATE_CLASS_NAMES; a second label replaces
 * the first. Returns 0, or -1 where the ring holds no such id (any more) or there is no such
 * class. */
int dripgate_label(uint32_t id, int label);

/* One bounded piece of learning. Returns how many labelled samples it went through: 0 where there
 * is none, fewer than DRIPGATE_LEARN_STEPS where some could not be read; those are forgotten. */
int dripgate_learn(void);

/* Back to the deployed head; the ring stays, and judging begins anew. For example where
 * learner.right is below learner.deployed_right after a hundred labels. */
void dripgate_unlearn(void);

#ifdef __cplusplus
}
#endif
#endif
