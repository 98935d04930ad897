// The former name of clock.h.
#ifndef CTACCT_ENGINE_SYSTEM_MONOTONIC_CLOCK_H_
#define CTACCT_ENGINE_SYSTEM_MONOTONIC_CLOCK_H_

#include "engine/system/clock.h"

#endif  // CTACCT_ENGINE_SYSTEM_MONOTONIC_CLOCK_H_
