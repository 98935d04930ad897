#include "engine/names/openvpn_status.h"

#include <algorithm>
#include <map>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "engine/rows/bounds.h"
#include "engine/system/clock.h"

namespace ctacct {
namespace {

using Fields = std::vector<absl::string_view>;

constexpr char kNoName[] = "UNDEF";  // OpenVPN's, of a client that has not shown who it is.

// The columns of a table, by the names in its heading.
class Columns {
 public:
  Columns() = default;
  explicit Columns(Fields names) : names_(std::move(names)) {}
  size_t size() const { return names_.size(); }
  // size() if there is no such column.
  size_t IndexOf(absl::string_view name) const {
    return static_cast<size_t>(std::find(names_.begin(), names_.end(), name) - names_.begin());
  }
  // Empty: there is no such column.
  absl::string_view Get(const Fields& fields, absl::string_view name) const {
    const size_t i = IndexOf(name);
    return i < size() ? fields[i] : absl::string_view();
  }

 private:
  Fields names_;
};

std::optional<int64_t> TimeOf(absl::string_view seconds_text, absl::string_view text,
                              absl::TimeZone zone) {
  int64_t seconds = 0;
  if (absl::SimpleAtoi(seconds_text, &seconds)) {
    if (seconds <= 0 || seconds >= kTimeEndNs / kNanosPerSecond) return std::nullopt;
    return seconds * kNanosPerSecond;
  }
  // Since OpenVPN 2.5, and before.
  for (const char* format : {"%Y-%m-%d %H:%M:%S", "%a %b %d %H:%M:%S %Y"}) {
    absl::Time time;
    if (!absl::ParseTime(format, text, zone, &time, nullptr)) continue;
    const int64_t ns = absl::ToUnixNanos(time);
    return IsTime(ns) ? std::optional<int64_t>(ns) : std::nullopt;
  }
  return std::nullopt;
}

class StatusParser {
 public:
  explicit StatusParser(absl::TimeZone zone) : zone_(zone) {}

  absl::StatusOr<SourceNames> Parse(absl::string_view text) {
    if (!absl::EndsWith(text, "\nEND\n") && !absl::EndsWith(text, "\nEND\r\n")) {
      return absl::InvalidArgumentError("not a status file of OpenVPN, or not whole");
    }
    const bool is_version1 = absl::StartsWith(text, "OpenVPN CLIENT LIST");
    const char separator = absl::StartsWith(text, "TITLE\t") ? '\t' : ',';
    if (!is_version1 && !absl::StartsWith(text, "TITLE")) {
      return absl::InvalidArgumentError("not a status file of an OpenVPN server");
    }
    bool ended = false;
    bool follows_end = false;
    ForEachLine(text, &names_.problems, [&](size_t number, absl::string_view line) {
      follows_end |= ended;
      ended |= line == "END";
      const Fields fields = absl::StrSplit(line, separator);
      is_version1 ? TakeVersion1(number, line, fields) : TakeVersion2(number, fields);
    });
    if (follows_end) return absl::InvalidArgumentError("the status file is being written");
    Join();
    return std::move(names_);
  }

 private:
  struct Route {
    size_t line;
    absl::string_view network;
    std::string name;
    std::string real_address;
  };
  using ClientKey = std::pair<std::string, std::string>;

  void TakeVersion1(size_t number, absl::string_view line, const Fields& fields) {
    if (line == "OpenVPN CLIENT LIST" || line == "ROUTING TABLE" || line == "GLOBAL STATS") {
      table_ = line;
      columns_ = Columns();
    } else if (fields[0] == "Updated" || table_ == "GLOBAL STATS" || line == "END") {
      return;
    } else if (columns_.size() == 0) {
      columns_ = Columns(fields);
    } else if (table_ == "OpenVPN CLIENT LIST") {
      TakeClient(number, columns_, fields);
    } else if (table_ == "ROUTING TABLE") {
      TakeRoute(number, columns_, fields);
    }
  }

  void TakeVersion2(size_t number, const Fields& fields) {
    const Fields values(fields.begin() + 1, fields.end());
    if (fields[0] == "HEADER" && fields.size() > 2) {
      (fields[1] == "CLIENT_LIST" ? client_columns_ : columns_) =
          Columns(Fields(fields.begin() + 2, fields.end()));
    } else if (fields[0] == "CLIENT_LIST") {
      TakeClient(number, client_columns_, values);
    } else if (fields[0] == "ROUTING_TABLE") {
      TakeRoute(number, columns_, values);
    }
  }

  // False, and a problem, if fields are missing. If there are more than columns, the common name
  // has commas: it is the only text in the line that OpenVPN did not make itself. `name`: it.
  bool JoinName(size_t number, const Columns& columns, Fields* fields, std::string* name) {
    const size_t at = columns.IndexOf("Common Name");
    if (fields->size() < columns.size() || at >= columns.size()) {
      names_.problems.push_back(
          {number, "fewer fields than its table has: the client is left out"});
      return false;
    }
    const auto first = fields->begin() + static_cast<ptrdiff_t>(at);
    const auto last = first + static_cast<ptrdiff_t>(fields->size() - columns.size());
    *name = absl::StrJoin(first, last + 1, ",");
    fields->erase(first, last);
    return true;
  }

  void TakeClient(size_t number, const Columns& columns, Fields fields) {
    // Here a user's name may have the commas. The routing table says who has which address.
    if (fields.size() > columns.size() && columns.IndexOf("Username") < columns.size()) return;
    std::string name;
    if (!JoinName(number, columns, &fields, &name)) return;
    const std::string real_address(columns.Get(fields, "Real Address"));
    clients_[{name, real_address}] = TimeOf(columns.Get(fields, "Connected Since (time_t)"),
                                            columns.Get(fields, "Connected Since"), zone_);
    for (const char* column : {"Virtual Address", "Virtual IPv6 Address"}) {
      AddRoute({number, columns.Get(fields, column), name, real_address});
    }
  }

  void TakeRoute(size_t number, const Columns& columns, Fields fields) {
    std::string name;
    if (!JoinName(number, columns, &fields, &name)) return;
    AddRoute({number, columns.Get(fields, "Virtual Address"), name,
              std::string(columns.Get(fields, "Real Address"))});
  }

  void AddRoute(Route route) {
    // An address with a C was learned within a network that is routed to the client and is listed
    // itself.
    if (route.network.empty() || route.name.empty() || route.name == kNoName ||
        absl::EndsWith(route.network, "C")) {
      return;
    }
    routes_.push_back(std::move(route));
  }

  // The networks of the table with the times of the list.
  void Join() {
    for (const Route& route : routes_) {
      const absl::StatusOr<Network> network = ParseNetwork(route.network);
      if (!network.ok()) continue;  // An Ethernet address, of a bridged server.
      if (absl::Status status = CheckHolderName(route.name); !status.ok()) {
        names_.problems.push_back({route.line, std::string(status.message())});
        continue;
      }
      const auto client = clients_.find(ClientKey(route.name, route.real_address));
      NamesEntry entry;
      entry.network = *network;
      entry.name = route.name;
      entry.source = NameSource::kOpenvpn;
      if (client != clients_.end()) entry.from_ns = client->second;
      names_.entries.push_back(std::move(entry));
    }
    // Clients and routes name most addresses twice. Of two clients that have one, the one that
    // connected last has it.
    std::vector<NamesEntry>& entries = names_.entries;
    std::sort(entries.begin(), entries.end(), [](const NamesEntry& a, const NamesEntry& b) {
      return std::tie(a.network, b.from_ns, a.name) < std::tie(b.network, a.from_ns, b.name);
    });
    entries.erase(std::unique(entries.begin(), entries.end(),
                              [](const NamesEntry& a, const NamesEntry& b) {
                                return a.network == b.network;
                              }),
                  entries.end());
    std::sort(names_.problems.begin(), names_.problems.end(),
              [](const LineProblem& a, const LineProblem& b) { return a.line < b.line; });
  }

  const absl::TimeZone zone_;
  SourceNames names_;
  absl::string_view table_;  // Version 1: the one that the line is in.
  Columns columns_;          // Of the routing table; version 1: of that table.
  Columns client_columns_;
  std::map<ClientKey, std::optional<int64_t>> clients_;  // When each connected.
  std::vector<Route> routes_;
};

}  // namespace

absl::StatusOr<SourceNames> ParseOpenvpnStatus(absl::string_view text, absl::TimeZone zone) {
  return StatusParser(zone).Parse(text);
}

}  // namespace ctacct
