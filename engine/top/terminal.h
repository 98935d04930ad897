// A terminal that shows lines full-screen and gives back keys, by ncurses.
//
// However the program ends, the terminal is as it was before: by the destructor, after any signal
// of StopSignals() (which the owner reads from a signalfd), and in a crash. Ctrl-Z stops the
// program and gives the terminal back meanwhile.
//
// One at a time; belongs to one thread.
#ifndef CTACCT_ENGINE_TOP_TERMINAL_H_
#define CTACCT_ENGINE_TOP_TERMINAL_H_

#include <signal.h>

#include <cstddef>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/top/screen.h"

struct screen;  // Of ncurses.

namespace ctacct {

// Characters are themselves.
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

class Terminal {
 public:
  // FailedPrecondition: standard input and output are not a terminal that can do it; the message
  // says why. Block StopSignals() before.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<Terminal>> Open();
  Terminal(const Terminal&) = delete;
  Terminal& operator=(const Terminal&) = delete;
  ~Terminal();

  [[nodiscard]] size_t width() const;
  [[nodiscard]] size_t height() const;

  void Draw(const std::vector<ScreenLine>& lines);
  // What was typed and not read yet.
  [[nodiscard]] std::optional<int> ReadKey();
  // Takes on the terminal's new size (SIGWINCH).
  void Resize();

 private:
  explicit Terminal(screen* screen) : screen_(screen) {}

  screen* const screen_;
};

}  // namespace ctacct

#endif  // CTACCT_ENGINE_TOP_TERMINAL_H_
