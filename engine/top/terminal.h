// A terminal that shows lines full-screen and gives back keys, by ncurses.
//
// However the program ends, the terminal is as it was before: the destructor and a crash handler
// restore it, and the owner reads the signals that end the program from a signalfd. Ctrl-Z stops
// the program and restores the terminal until it continues.
//
// One at a time; belongs to one thread.
#ifndef CTACCT_ENGINE_TOP_TERMINAL_H_
#define CTACCT_ENGINE_TOP_TERMINAL_H_

#include <cstddef>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/top/format.h"

struct screen;  // Of ncurses.

namespace ctacct {

class Terminal {
 public:
  // FailedPrecondition: standard input and output are not a terminal that can show a full screen;
  // the message says why. Call it with the signals blocked that end the program.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<Terminal>> Open();
  Terminal(const Terminal&) = delete;
  Terminal& operator=(const Terminal&) = delete;
  ~Terminal();

  [[nodiscard]] size_t width() const;
  [[nodiscard]] size_t height() const;

  void Draw(const std::vector<ScreenLine>& lines);
  // The next key that was typed: a character, or a Key (keys.h). Does not wait.
  [[nodiscard]] std::optional<int> ReadKey();
  // Adopts the terminal's new size (SIGWINCH).
  void Resize();

 private:
  explicit Terminal(screen* screen) : screen_(screen) {}

  screen* const screen_;
};

}  // namespace ctacct

#endif  // CTACCT_ENGINE_TOP_TERMINAL_H_
