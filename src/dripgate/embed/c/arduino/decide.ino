// One verdict per sample. Fill `sample` from your camera, microphone or sensor.
#include <dripgate.h>

static dripgate_sample sample[DRIPGATE_SAMPLE_LENGTH];
static dripgate_policy policy;
static const char *const classes[] = DRIPGATE_CLASS_NAMES;

void setup() {
  Serial.begin(115200);
  dripgate_rules rules = {};
  rules.keep = 0.1;         // a tenth of the stream
  rules.audit = 0.01;       // and one in a hundred whatever its score
  rules.quarantine = 0.01;
  rules.seed = 1;
  if (dripgate_selftest() != 0 || dripgate_init(&policy, &rules) != 0) {
    Serial.println("dripgate: self-test failed");
    for (;;) {
    }
  }
}

void loop() {
  dripgate_verdict verdict;
  dripgate_time(millis() / 1000.0);
  dripgate_decide(sample, &verdict);
  if (verdict.decision != DRIPGATE_DROP) {
    Serial.println(classes[verdict.predicted]);  // here: store the sample
  }
}
