#include "importer/tables/rollup.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <tuple>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "engine/rows/protocol_names.h"
#include "importer/postgres/pg_binary.h"
#include "importer/tables/copy_encoder.h"
#include "xxhash.h"

namespace ctacct {

struct RollupDefinition {
  const char* name;  // In traffic_rollups; nullptr: only a source of others.
  uint8_t columns;   // Besides time and gateway: kSrc, kDst, kProto, kPort.
  bool limited;      // Has room in traffic_rollups: may not list all keys.
  int source;        // Index of the rollup from which it is made, which comes before it; or kRows.
  int64_t step_ns;   // 0: the interval as it was measured.
};

namespace {

constexpr uint8_t kNoColumns = 0;
constexpr uint8_t kSrc = 1;
constexpr uint8_t kDst = 2;
constexpr uint8_t kProto = 4;
constexpr uint8_t kPort = 8;  // Never without the protocol.
constexpr uint8_t kProtoPort = kProto | kPort;
constexpr int kRows = -1;

constexpr int64_t kMinuteNs = 60'000'000'000;
constexpr int64_t kTenMinutesNs = 10 * kMinuteNs;
constexpr int64_t kHalfHourNs = 30 * kMinuteNs;
constexpr int64_t kHourNs = 60 * kMinuteNs;

// In the order of flushing: each right after what is made of the same source, so that few are in
// memory at once.
constexpr RollupDefinition kRollups[] = {
    /*0*/ {"port_fine", kProtoPort, false, kRows, 0},
    /*1*/ {"protocol_fine", kProto, false, 0, 0},
    /*2*/ {"total", kNoColumns, false, 1, 0},
    /*3*/ {"protocol_1m", kProto, false, 1, kMinuteNs},
    /*4*/ {"protocol_10m", kProto, false, 3, kTenMinutesNs},
    /*5*/ {"protocol_1h", kProto, false, 4, kHourNs},
    /*6*/ {"port_1m", kProtoPort, false, 0, kMinuteNs},
    /*7*/ {"port_10m", kProtoPort, false, 6, kTenMinutesNs},
    /*8*/ {"port_1h", kProtoPort, false, 7, kHourNs},
    /*9*/ {"origin_fine", kSrc, false, kRows, 0},
    /*10*/ {"origin_1m", kSrc, false, 9, kMinuteNs},
    /*11*/ {"origin_10m", kSrc, false, 10, kTenMinutesNs},
    /*12*/ {"origin_1h", kSrc, false, 11, kHourNs},
    /*13*/ {"destination_fine", kDst, true, kRows, 0},
    /*14*/ {"destination_1m", kDst, true, 13, kMinuteNs},
    /*15*/ {"destination_10m", kDst, true, 14, kTenMinutesNs},
    /*16*/ {"destination_1h", kDst, true, 15, kHourNs},
    /*17*/ {nullptr, kSrc | kDst | kProtoPort, false, kRows, kTenMinutesNs},
    /*18*/ {"pair_30m", kSrc | kDst, true, 17, kHalfHourNs},
    /*19*/ {"pair_1h", kSrc | kDst, true, 18, kHourNs},
    /*20*/ {"origin_port_10m", kSrc | kProtoPort, false, 17, kTenMinutesNs},
    /*21*/ {"origin_protocol_10m", kSrc | kProto, false, 20, kTenMinutesNs},
    /*22*/ {"origin_protocol_1h", kSrc | kProto, false, 21, kHourNs},
    /*23*/ {"origin_port_1h", kSrc | kProtoPort, false, 20, kHourNs},
    /*24*/ {"destination_port_10m", kDst | kProtoPort, true, 17, kTenMinutesNs},
    /*25*/ {"destination_port_1h", kDst | kProtoPort, true, 24, kHourNs},
    /*26*/ {"pair_port_1h", kSrc | kDst | kProtoPort, true, 17, kHourNs},
    /*27*/ {"pair_protocol_1h", kSrc | kDst | kProto, true, 26, kHourNs},
};
constexpr size_t kRollupCount = sizeof(kRollups) / sizeof(kRollups[0]);

// The arrays of a statement then have a few megabytes.
constexpr size_t kKeysPerStatement = 50'000;

constexpr char kAddSql[] =
    "SELECT traffic_add($1::text, $2::timestamptz[], $3::text[], $4::inet[], $5::inet[], "
    "$6::text[], $7::int4[], $8::int8[], $9::int8[], $10::int8[], $11::int8[], $12::int8[], "
    "$13::int8[], $14::int8[], $15::int8[], $16::int8[], $17::int8[], $18::int8[])";

constexpr char kWorthSendingSql[] =
    "SELECT array_to_string(traffic_worth_sending($1::text, $2::timestamptz[], $3::text[], "
    "$4::int8[]), ',')";

// The end of the step that contains a time, also before 1970. Times are the ends of intervals, so
// a time on a boundary belongs to the step that ends there.
int64_t StepEnd(int64_t time_ns, int64_t step_ns) {
  const int64_t rest = time_ns % step_ns;
  if (rest == 0) return time_ns;
  return rest > 0 ? time_ns - rest + step_ns : time_ns - rest;
}

// A whole number of bytes, rounded up.
int64_t Saturated(double bytes) {
  constexpr double kMax = 9e18;
  return bytes >= kMax ? std::numeric_limits<int64_t>::max()
                       : static_cast<int64_t>(std::ceil(bytes));
}

}  // namespace

size_t Rollup::KeyHash::operator()(const Key& key) const { return XXH3_64bits(&key, sizeof(key)); }

Rollup::Rollup() : sums_(kRollupCount) {}

Rollup::Key Rollup::KeyOf(const Key& key, const RollupDefinition& rollup) {
  Key result{};
  result.time_ns = rollup.step_ns == 0 ? key.time_ns : StepEnd(key.time_ns, rollup.step_ns);
  result.gateway = key.gateway;
  if ((rollup.columns & kSrc) != 0) result.src = key.src;
  if ((rollup.columns & kDst) != 0) result.dst = key.dst;
  if ((rollup.columns & (kSrc | kDst)) != 0) result.family = key.family;
  if ((rollup.columns & kProto) != 0) result.protocol = key.protocol;
  if ((rollup.columns & kPort) != 0) result.port = key.port;
  return result;
}

void Rollup::AddCounters(const Counters& counters, Counters* sums) {
  for (size_t i = 0; i < kCounters; ++i) {
    if (__builtin_add_overflow((*sums)[i], counters[i], &(*sums)[i])) {
      (*sums)[i] = std::numeric_limits<int64_t>::max();
    }
  }
}

double Rollup::Bytes(const Counters& counters) {
  return static_cast<double>(counters[kBytesSrc]) + static_cast<double>(counters[kBytesDst]);
}

void Rollup::AddTo(size_t rollup, const Key& key, const Counters& counters) {
  AddCounters(counters, &sums_[rollup].try_emplace(KeyOf(key, kRollups[rollup])).first->second);
}

void Rollup::Add(absl::Span<const TrafficRow> rows, const std::string& gateway) {
  const auto found = std::find(gateways_.begin(), gateways_.end(), gateway);
  const auto index = static_cast<uint16_t>(found - gateways_.begin());
  if (found == gateways_.end()) gateways_.push_back(gateway);
  for (const TrafficRow& row : rows) {
    Key key{};
    key.time_ns = row.time_ns / 1000 * 1000;  // The database has microseconds.
    key.src = row.src;
    key.dst = row.dst;
    key.port = row.port;
    key.gateway = index;
    key.protocol = row.protocol;
    key.family = static_cast<uint8_t>(row.family);
    // The encoder has checked that each fits its column.
    const Counters counters = {
        static_cast<int64_t>(row.packets_src),        static_cast<int64_t>(row.bytes_src),
        static_cast<int64_t>(row.packets_dst),        static_cast<int64_t>(row.bytes_dst),
        static_cast<int64_t>(row.connection_time_ms), static_cast<int64_t>(row.connection_count),
        static_cast<int64_t>(row.open_connections),   static_cast<int64_t>(row.flow_count),
        static_cast<int64_t>(row.unanswered_count),   1};
    for (size_t i = 0; i < kRollupCount; ++i) {
      if (kRollups[i].source == kRows) AddTo(i, key, counters);
    }
  }
}

bool Rollup::full() const {
  size_t keys = 0;
  size_t most = 0;
  for (const Sums& sums : sums_) {
    keys += sums.size();
    most = std::max(most, sums.size());
  }
  return keys >= kKeysMax || most >= kKeysMaxOfOne;
}

absl::Status Rollup::Flush(PgConnection& connection) {
  for (size_t i = 0; i < kRollupCount; ++i) {
    const RollupDefinition& rollup = kRollups[i];
    if (rollup.source != kRows) {
      for (const auto& [key, counters] : sums_[static_cast<size_t>(rollup.source)]) {
        AddTo(i, key, counters);
      }
    }
    if (rollup.columns == kNoColumns) {
      for (const auto& [key, counters] : sums_[i]) {
        flushed_rows_ += static_cast<uint64_t>(counters.back());
      }
    }
    if (rollup.name != nullptr) {
      if (absl::Status status = Send(connection, rollup, sums_[i]); !status.ok()) return status;
    }
    // What no later one is made of.
    for (size_t done = 0; done <= i; ++done) {
      const bool needed = std::any_of(
          kRollups + i + 1, kRollups + kRollupCount,
          [&](const RollupDefinition& later) { return later.source == static_cast<int>(done); });
      if (!needed) sums_[done] = Sums();
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<size_t>> Rollup::WorthSending(PgConnection& connection,
                                                         const RollupDefinition& rollup,
                                                         const std::vector<Step>& steps) const {
  PgArray times(PgType::kTimestamptz, steps.size());
  PgArray gateways(PgType::kText, steps.size());
  PgArray counts(PgType::kInt8, steps.size());
  for (const Step& step : steps) {
    times.AppendTime(step.time_ns);
    gateways.AppendText(gateways_[step.gateway]);
    counts.AppendInt8(step.keys);
  }
  const absl::StatusOr<PgResult> result = connection.QueryBinary(
      kWorthSendingSql, {rollup.name, std::move(times).bytes(), std::move(gateways).bytes(),
                         std::move(counts).bytes()});
  if (!result.ok()) return result.status();
  std::vector<size_t> numbers;
  for (const absl::string_view text :
       absl::StrSplit(PQgetvalue(result->get(), 0, 0), ',', absl::SkipEmpty())) {
    if (!absl::SimpleAtoi(text, &numbers.emplace_back())) numbers.pop_back();
  }
  if (numbers.size() == steps.size()) return numbers;
  return absl::FailedPreconditionError("the database has other rollups than this importer");
}

absl::StatusOr<std::vector<Rollup::Sum>> Rollup::Sorted(PgConnection& connection,
                                                        const RollupDefinition& rollup,
                                                        const Sums& sums,
                                                        std::deque<Sums>* others) const {
  std::vector<Sum> sorted;
  sorted.reserve(sums.size());
  for (const auto& entry : sums) sorted.push_back({&entry, 0});
  // Steps in order, so that importers cannot deadlock; within a step for the same reason by key, or
  // the largest first.
  const bool by_protocol = rollup.columns == (kSrc | kDst | kProto);  // As its index.
  const auto before = [this, by_protocol](bool by_bytes) {
    return [this, by_protocol, by_bytes](const Sum& a, const Sum& b) {
      const Key& x = a.entry->first;
      const Key& y = b.entry->first;
      if (x.time_ns != y.time_ns || x.gateway != y.gateway) {
        return std::tie(x.time_ns, gateways_[x.gateway]) <
               std::tie(y.time_ns, gateways_[y.gateway]);
      }
      const double x_bytes = by_bytes ? Bytes(a.entry->second) : 0;
      const double y_bytes = by_bytes ? Bytes(b.entry->second) : 0;
      if (by_protocol && x_bytes == y_bytes && x.protocol != y.protocol) {
        return x.protocol < y.protocol;
      }
      return std::tie(y_bytes, x.family, x.src, x.dst, x.protocol, x.port) <
             std::tie(x_bytes, y.family, y.src, y.dst, y.protocol, y.port);
    };
  };
  std::sort(sorted.begin(), sorted.end(), before(rollup.limited));
  if (!rollup.limited || sorted.empty()) return sorted;
  std::vector<Step> steps;
  for (const Sum& sum : sorted) {
    const Key& key = sum.entry->first;
    if (steps.empty() || !steps.back().Has(key)) steps.push_back({key.time_ns, key.gateway, 0});
    ++steps.back().keys;
  }
  const absl::StatusOr<std::vector<size_t>> worth = WorthSending(connection, rollup, steps);
  if (!worth.ok()) return worth.status();
  std::vector<Sum> result;
  auto sum = sorted.begin();
  for (size_t i = 0; i < steps.size(); ++i) {
    Sums& other = others->emplace_back();
    double largest = 0;
    size_t named = 0;
    for (; sum != sorted.end() && steps[i].Has(sum->entry->first); ++sum) {
      Key key = sum->entry->first;
      const bool has_name = key.dst != AddressBytes{};
      if (has_name && named < (*worth)[i]) {
        result.push_back(*sum);
        ++named;
        continue;
      }
      // If it has no name, it is a sum already: of a mask of 0.0.0.0, or of -max-rows.
      if (has_name) {
        // At least 1: 0 says that all are listed.
        largest = std::max({largest, Bytes(sum->entry->second), 1.0});
        key.dst = {};
        if ((rollup.columns & kProto) != 0) key.protocol = kOtherRowProtocol;
        if ((rollup.columns & kPort) != 0) key.port = kPortNotListed;
      }
      AddCounters(sum->entry->second, &other.try_emplace(key).first->second);
    }
    for (const auto& entry : other) result.push_back({&entry, largest});
  }
  // The largest are in the first statement, but within a statement the index wants neighbours.
  for (size_t begin = 0; begin < result.size(); begin += kKeysPerStatement) {
    const size_t end = std::min(begin + kKeysPerStatement, result.size());
    std::sort(result.begin() + static_cast<ptrdiff_t>(begin),
              result.begin() + static_cast<ptrdiff_t>(end), before(false));
  }
  return result;
}

absl::Status Rollup::Send(PgConnection& connection, const RollupDefinition& rollup,
                          const Sums& sums) const {
  std::deque<Sums> others;
  const absl::StatusOr<std::vector<Sum>> to_send = Sorted(connection, rollup, sums, &others);
  if (!to_send.ok()) return to_send.status();
  const std::vector<Sum>& sorted = *to_send;
  for (size_t begin = 0; begin < sorted.size(); begin += kKeysPerStatement) {
    const size_t count = std::min(kKeysPerStatement, sorted.size() - begin);
    std::vector<std::string> parameters;
    parameters.emplace_back(rollup.name);
    const auto add_array = [&](PgType type, bool present, const auto& append) {
      PgArray array(type, present ? count : 0);
      for (size_t i = 0; present && i < count; ++i) append(*sorted[begin + i].entry, &array);
      parameters.push_back(std::move(array).bytes());
    };
    using Entry = Sums::value_type;
    add_array(PgType::kTimestamptz, true,
              [](const Entry& e, PgArray* out) { out->AppendTime(e.first.time_ns); });
    add_array(PgType::kText, true, [this](const Entry& e, PgArray* out) {
      out->AppendText(gateways_[e.first.gateway]);
    });
    add_array(PgType::kInet, (rollup.columns & kSrc) != 0, [](const Entry& e, PgArray* out) {
      out->AppendInet(InetBytes(static_cast<AddressFamily>(e.first.family), e.first.src));
    });
    add_array(PgType::kInet, (rollup.columns & kDst) != 0, [](const Entry& e, PgArray* out) {
      out->AppendInet(InetBytes(static_cast<AddressFamily>(e.first.family), e.first.dst));
    });
    add_array(PgType::kText, (rollup.columns & kProto) != 0, [](const Entry& e, PgArray* out) {
      out->AppendText(ProtocolName(e.first.protocol));
    });
    add_array(PgType::kInt4, (rollup.columns & kPort) != 0,
              [](const Entry& e, PgArray* out) { out->AppendInt4(e.first.port); });
    for (size_t counter = 0; counter < kCounters; ++counter) {
      add_array(PgType::kInt8, true,
                [counter](const Entry& e, PgArray* out) { out->AppendInt8(e.second[counter]); });
    }
    PgArray unlisted(PgType::kInt8, rollup.limited ? count : 0);
    for (size_t i = 0; rollup.limited && i < count; ++i) {
      unlisted.AppendInt8(Saturated(sorted[begin + i].unlisted_bytes));
    }
    parameters.push_back(std::move(unlisted).bytes());
    const absl::StatusOr<PgResult> result = connection.QueryBinary(kAddSql, parameters);
    if (!result.ok()) return result.status();
    if (absl::string_view(PQgetvalue(result->get(), 0, 0)) != absl::StrCat(count)) {
      return absl::FailedPreconditionError(
          "the database did not take all sums (a trigger or rule on a rollup?)");
    }
  }
  return absl::OkStatus();
}

}  // namespace ctacct
