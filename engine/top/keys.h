// What each key does to top's screen. A pure function of screen and key; thread-compatible.
#ifndef CTACCT_ENGINE_TOP_KEYS_H_
#define CTACCT_ENGINE_TOP_KEYS_H_

#include "engine/top/screen.h"

namespace ctacct {

// Other characters are themselves.
enum Key : int {
  kKeyEnter = '\n',
  kKeyEscape = 27,
  kKeyBackspace = 127,
  kKeyUp = 1000,
  kKeyDown,
  kKeyLeft,
  kKeyRight,
  kKeyPageUp,
  kKeyPageDown,
  kKeyHome,
  kKeyEnd,
  kKeyBackTab,
  kKeyOther,
};

// False: the key ends the program.
[[nodiscard]] bool OnKey(int key, TopScreen* screen);

}  // namespace ctacct

#endif  // CTACCT_ENGINE_TOP_KEYS_H_
