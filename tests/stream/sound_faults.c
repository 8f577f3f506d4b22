/* Preloaded into a process that records through ALSA: a buffer that runs over, a cable that is cut.

   DRIPGATE_OVERFLOW: at which look for frames, from 1, the buffer has run over.
   DRIPGATE_GONE: at which the device is gone: from then on nothing comes, and as many opens as
   DRIPGATE_AWAY says find no device. DRIPGATE_NONE: there never is one. DRIPGATE_ONLY_RATE:
   in Hz. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>

static long looks, away = -1;
static int xrun;

static long number(const char *name) {
    const char *text = getenv(name);
    return text ? atol(text) : 0;
}

/* ALSA is loaded later, by PortAudio: not what comes next. */
#define REAL(name, type) static type real; \
    if (!real) real = (type)dlsym(dlopen("libasound.so.2", RTLD_LAZY), name)

typedef long (*avail_t)(void *);
long snd_pcm_avail_update(void *pcm) {
    REAL("snd_pcm_avail_update", avail_t);
    looks++;
    if (looks == number("DRIPGATE_OVERFLOW")) { xrun = 1; return -EPIPE; }
    if (looks == number("DRIPGATE_GONE")) away = number("DRIPGATE_AWAY");
    return away >= 0 ? -ENODEV : real(pcm);
}

typedef int (*state_t)(const void *);
int snd_pcm_status_get_state(const void *status) {
    REAL("snd_pcm_status_get_state", state_t);
    if (xrun) { xrun = 0; return 4; /* SND_PCM_STATE_XRUN */ }
    return real(status);
}

typedef int (*open_t)(void **, const char *, int, int);
int snd_pcm_open(void **pcm, const char *name, int stream, int mode) {
    REAL("snd_pcm_open", open_t);
    if (number("DRIPGATE_NONE")) return -ENODEV;
    if (away > 0) { away--; return -ENODEV; }
    away = -1;
    return real(pcm, name, stream, mode);
}

typedef int (*rate_t)(void *, void *, unsigned *, int *);
int snd_pcm_hw_params_set_rate_near(void *pcm, void *params, unsigned *rate, int *dir) {
    REAL("snd_pcm_hw_params_set_rate_near", rate_t);
    if (number("DRIPGATE_ONLY_RATE")) *rate = number("DRIPGATE_ONLY_RATE");
    return real(pcm, params, rate, dir);
}
