#include "engine/top/terminal.h"

// Its macros have names such as `timeout` and `clear`.
#define NCURSES_NOMACROS 1
#include <ncurses.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <term.h>
#include <termios.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/system/command_line.h"
#include "engine/top/keys.h"

#undef lines  // term.h makes macros of the names of all capabilities.

namespace ctacct {
namespace {

constexpr int kEscapeDelayMs = 25;  // How long the bytes of one key may be apart.
constexpr short kAlarmColours = 1;
constexpr std::array<int, 5> kCrashSignals = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT};

// For the crash handler, which may call next to nothing.
termios g_before;
char g_leave[256];
size_t g_leave_bytes = 0;

void OnCrash(int signal_number) {
  tcsetattr(STDIN_FILENO, TCSANOW, &g_before);
  [[maybe_unused]] const ssize_t written = write(STDOUT_FILENO, g_leave, g_leave_bytes);
  raise(signal_number);  // With its default action: SA_RESETHAND.
}

void SetCrashHandlers() {
  g_leave_bytes = 0;
  for (const char* capability : {"sgr0", "rmcup", "cnorm", "rmkx"}) {
    const char* const text = tigetstr(capability);
    if (text == nullptr || text == reinterpret_cast<const char*>(-1)) continue;
    const size_t size = std::min(std::strlen(text), sizeof(g_leave) - g_leave_bytes);
    std::copy_n(text, size, g_leave + g_leave_bytes);  // Without its NUL.
    g_leave_bytes += size;
  }
  struct sigaction action {};
  action.sa_handler = OnCrash;
  action.sa_flags = SA_RESETHAND;
  for (const int signal_number : kCrashSignals) sigaction(signal_number, &action, nullptr);
}

int Attributes(TextStyle style) {
  switch (style) {
    case TextStyle::kPlain:
      break;
    case TextStyle::kBold:
      return A_BOLD;
    case TextStyle::kDim:
      return A_DIM;
    case TextStyle::kReverse:
      return A_REVERSE;
    case TextStyle::kAlarm:
      return A_BOLD | (has_colors() ? COLOR_PAIR(kAlarmColours) : A_REVERSE);
  }
  return A_NORMAL;
}

absl::Status Cannot(absl::string_view why) {
  return absl::FailedPreconditionError(absl::StrCat(why, "; -once prints plain text"));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Terminal>> Terminal::Open() {
  if (isatty(STDOUT_FILENO) == 0) return Cannot("standard output is not a terminal");
  if (isatty(STDIN_FILENO) == 0) return Cannot("standard input is not a terminal");
  const char* const type = std::getenv("TERM");
  int found = 0;
  if (type == nullptr || *type == '\0') return Cannot("TERM is not set");
  if (setupterm(type, STDOUT_FILENO, &found) != OK || found != 1) {
    return Cannot(absl::StrCat("no terminal of the type TERM=", QuotedForLog(type), " is known"));
  }
  TERMINAL* const looked_at = cur_term;
  const char* const move_to = tigetstr("cup");
  if (move_to == nullptr || move_to == reinterpret_cast<const char*>(-1)) {
    del_curterm(looked_at);
    return Cannot(
        absl::StrCat("a terminal of the type TERM=", QuotedForLog(type), " shows no full screen"));
  }
  tcgetattr(STDIN_FILENO, &g_before);
  SCREEN* const screen = newterm(type, stdout, stdin);
  // It has a description of its own.
  if (screen == nullptr || cur_term != looked_at) del_curterm(looked_at);
  if (screen == nullptr) return Cannot("the terminal cannot be used");
  SetCrashHandlers();
  cbreak();
  noecho();
  nonl();
  intrflush(stdscr, FALSE);
  keypad(stdscr, TRUE);
  nodelay(stdscr, TRUE);
  set_escdelay(kEscapeDelayMs);
  curs_set(0);
  if (has_colors()) {
    start_color();
    use_default_colors();
    init_pair(kAlarmColours, COLOR_RED, -1);
  }
  return std::unique_ptr<Terminal>(new Terminal(screen));
}

Terminal::~Terminal() {
  endwin();
  delscreen(screen_);
}

size_t Terminal::width() const { return static_cast<size_t>(std::max(1, getmaxx(stdscr))); }
size_t Terminal::height() const { return static_cast<size_t>(std::max(1, getmaxy(stdscr))); }

void Terminal::Draw(const std::vector<ScreenLine>& lines) {
  werase(stdscr);
  for (size_t y = 0; y < lines.size(); ++y) {
    wmove(stdscr, static_cast<int>(y), 0);
    for (const Span& span : lines[y]) {
      wattrset(stdscr, Attributes(span.style));
      waddnstr(stdscr, span.text.data(), static_cast<int>(span.text.size()));
    }
  }
  wattrset(stdscr, A_NORMAL);
  wrefresh(stdscr);
}

std::optional<int> Terminal::ReadKey() {
  constexpr std::pair<int, Key> kKeys[] = {
      {'\r', kKeyEnter},         {KEY_ENTER, kKeyEnter}, {KEY_BACKSPACE, kKeyBackspace},
      {'\b', kKeyBackspace},     {KEY_UP, kKeyUp},       {KEY_DOWN, kKeyDown},
      {KEY_LEFT, kKeyLeft},      {KEY_RIGHT, kKeyRight}, {KEY_PPAGE, kKeyPageUp},
      {KEY_NPAGE, kKeyPageDown}, {KEY_HOME, kKeyHome},   {KEY_END, kKeyEnd},
      {KEY_BTAB, kKeyBackTab}};
  const int typed = wgetch(stdscr);
  if (typed == ERR) return std::nullopt;
  for (const auto& [code, key] : kKeys) {
    if (typed == code) return key;
  }
  return typed > 255 ? kKeyOther : typed;
}

void Terminal::Resize() {
  winsize size{};
  if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_row > 0 && size.ws_col > 0) {
    resizeterm(size.ws_row, size.ws_col);
  }
}

}  // namespace ctacct
