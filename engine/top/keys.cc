#include "engine/top/keys.h"

#include <algorithm>
#include <cctype>
#include <string>
#include <utility>
#include <vector>

namespace ctacct {
namespace {

constexpr size_t kFilterBytesMax = 45;  // An IPv6 address and its prefix' length.

void Resort(TopScreen* screen) {
  screen->scroll = 0;
  UpdateTable(screen);
}

void OnPromptKey(int key, TopScreen* screen) {
  std::string& text = *screen->prompt;
  screen->prompt_error.clear();
  if (key == kKeyEscape) {
    screen->prompt.reset();
  } else if (key == kKeyEnter) {
    absl::StatusOr<AddressFilter> filter = AddressFilter::Parse(text);
    if (!filter.ok()) {
      screen->prompt_error = std::string(filter.status().message());
      return;
    }
    screen->filter = *std::move(filter);
    screen->prompt.reset();
    Resort(screen);
  } else if (key == kKeyBackspace) {
    if (!text.empty()) text.pop_back();
  } else if (key < 128 && std::isprint(key) != 0 && text.size() < kFilterBytesMax) {
    text.push_back(static_cast<char>(key));
  }
}

// True: the key was one that moves within the table. RenderTop corrects a move beyond the end.
bool OnMove(int key, TopScreen* screen) {
  size_t& scroll = screen->scroll;
  switch (key) {
    case kKeyUp:
      scroll -= std::min<size_t>(scroll, 1);
      return true;
    case kKeyDown:
      ++scroll;
      return true;
    case kKeyPageUp:
      scroll -= std::min(scroll, screen->page);
      return true;
    case kKeyPageDown:
      scroll += screen->page;
      return true;
    case kKeyHome:
      scroll = 0;
      return true;
    case kKeyEnd:
      scroll = screen->table.entries.size();
      return true;
    default:
      return false;
  }
}

void ShowTab(int tab, TopScreen* screen) {
  screen->show_health = tab == kTopViews;
  if (!screen->show_health) screen->view = static_cast<TopView>(tab);
  Resort(screen);
}

void SortBy(int step, TopScreen* screen) {
  // Open connections only where they are known.
  do {
    screen->sort = static_cast<TopSort>((static_cast<int>(screen->sort) + step) % kTopSorts);
  } while (screen->sort == TopSort::kOpen && !screen->table.has_open);
  Resort(screen);
}

// All, then each by name, then all again.
void NextGateway(TopScreen* screen) {
  std::string* const gateway = &screen->state.gateway;
  const std::vector<const TopInterval*>& all = screen->state.intervals;
  const auto next = std::find_if(all.begin(), all.end(), [gateway](const TopInterval* interval) {
    return interval->gateway > *gateway;
  });
  *gateway = next == all.end() ? "" : (*next)->gateway;
  Resort(screen);
}

}  // namespace

bool OnKey(int key, TopScreen* screen) {
  constexpr int kTabs = kTopViews + 1;
  const int tab = screen->show_health ? kTopViews : static_cast<int>(screen->view);
  if (screen->prompt.has_value()) {
    OnPromptKey(key, screen);
  } else if (screen->help) {
    screen->help = false;
  } else if (OnMove(key, screen)) {
    return true;
  } else if (key == 'q') {
    return false;
  } else if (key == '\t' || key == kKeyRight) {
    ShowTab((tab + 1) % kTabs, screen);
  } else if (key == kKeyBackTab || key == kKeyLeft) {
    ShowTab((tab + kTabs - 1) % kTabs, screen);
  } else if (key >= '1' && key < '1' + kTabs) {
    ShowTab(key - '1', screen);
  } else if (key == 's' || key == 'S') {
    SortBy(key == 's' ? 1 : kTopSorts - 1, screen);
  } else if (key == 'u') {
    screen->sort = screen->sort == TopSort::kUnanswered ? TopSort::kBytes : TopSort::kUnanswered;
    Resort(screen);
  } else if (key == 'r') {
    screen->reverse = !screen->reverse;
    Resort(screen);
  } else if (key == 'p' || key == ' ') {
    screen->paused = !screen->paused;
  } else if (key == '/') {
    screen->prompt = "";
  } else if (key == 'g') {
    NextGateway(screen);
  } else if (key == '?' || key == 'h') {
    screen->help = true;
  }
  return true;
}

}  // namespace ctacct
