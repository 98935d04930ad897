// A gateway of tests/support/gateway.sh for a test: up while the object lives, with programs
// running inside, counted traffic through it, and sums to compare.
//
// Needs root; see RequireRootOrSkip. Several gateways may be up at once, also those of other tests.
// Thread-compatible. Errors name the command that failed and what it said.
#ifndef CTACCT_TESTS_SUPPORT_GATEWAY_H_
#define CTACCT_TESTS_SUPPORT_GATEWAY_H_

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "tests/support/subprocess.h"

namespace ctacct {

// ---- sums ----

// Addresses and port in host byte order.
struct TrafficKey {
  std::string protocol;  // "tcp", "udp", "icmp", ...; of IPv6 with a 6: "tcp6", "ipv6-icmp6".
  uint32_t src = 0;      // Of the original direction; of IPv6 the last 32 bits.
  uint32_t dst = 0;
  int32_t port = 0;  // As in CSV: -1 not listed, 0 where the protocol has none.

  friend auto operator<=>(const TrafficKey&, const TrafficKey&) = default;
  std::string ToString() const;
};

struct TrafficTotals {
  uint64_t packets_src = 0;  // Original direction.
  uint64_t packets_dst = 0;  // Reply direction.
  uint64_t bytes_src = 0;
  uint64_t bytes_dst = 0;
  uint64_t connection_count = 0;  // TCP connections closed.
  uint64_t open_connections = 0;  // TCP connections left open.

  TrafficTotals& operator+=(const TrafficTotals& other);
  friend bool operator==(const TrafficTotals&, const TrafficTotals&) = default;
  std::string ToString() const;
};

using Traffic = std::map<TrafficKey, TrafficTotals>;

// Empty if equal; else how many keys differ and the first few of them, for `EXPECT_EQ(Difference(a,
// b), "")`.
[[nodiscard]] std::string Difference(const Traffic& expected, const Traffic& actual);

[[nodiscard]] TrafficTotals Total(const Traffic& traffic);

Traffic& operator+=(Traffic& traffic, const Traffic& more);

// What rows report of traffic that was sent: while the connections left open are open (they are not
// counted as closed), and once all flows are destroyed (they are).
[[nodiscard]] Traffic WhileOpen(Traffic traffic);
[[nodiscard]] Traffic AllClosed(Traffic traffic);
// Packets and bytes alone, for tables that do not distinguish closed connections from open ones.
[[nodiscard]] Traffic WithoutConnections(Traffic traffic);

// "10.32.0.1" to host order and back.
[[nodiscard]] absl::StatusOr<uint32_t> ParseAddress(const std::string& text);
[[nodiscard]] std::string AddressText(uint32_t address);

struct GroupOptions {
  uint32_t src_mask = 0xffffffff;  // Host byte order.
  uint32_t dst_mask = 0xffffffff;
  // Protocol and port as in an engine's port list; ports not on it become -1. ICMP keeps its 0.
  std::optional<std::set<std::pair<std::string, int32_t>>> ports;
  bool include_icmp = true;
};

// What an engine with these settings accounts of this traffic.
[[nodiscard]] Traffic Group(const Traffic& traffic, const GroupOptions& options);

// The generator's --expect file.
[[nodiscard]] absl::StatusOr<Traffic> ReadExpectation(const std::string& path);

// `conntrack -L` or `conntrack -E -e DESTROY` output ("icmp", "tcp" and "udp" lines): counters per
// original tuple. Each TCP line counts as one connection closed. `flows`, if given, gets the number
// of lines.
[[nodiscard]] absl::StatusOr<Traffic> ParseConntrackOutput(const std::string& text,
                                                           uint64_t* flows = nullptr);

// ---- gateway ----

enum class Timeouts { kLong, kShort, kKernel };  // As gateway.sh --timeouts.

struct GatewayOptions {
  bool nat = false;
  bool ipv6 = false;  // Besides IPv4.
  Timeouts timeouts = Timeouts::kLong;
};

class Gateway {
 public:
  // Also removes gateways of tests that died without taking theirs down.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<Gateway>> Up(
      const GatewayOptions& options = {});

  Gateway(const Gateway&) = delete;
  Gateway& operator=(const Gateway&) = delete;
  ~Gateway();

  // Takes it down before the destructor does, and returns the error. Ends the processes inside.
  [[nodiscard]] absl::Status Down();

  const std::string& name() const { return name_; }
  std::string gateway_namespace() const { return name_ + "-gw"; }

  // Inside the gateway's namespace: in the background, or to its end (an exit status other than 0
  // is an error).
  [[nodiscard]] absl::StatusOr<std::unique_ptr<Subprocess>> Start(
      const std::vector<std::string>& argv, const SubprocessOptions& options = {}) const;
  [[nodiscard]] absl::StatusOr<std::string> Run(const std::vector<std::string>& argv,
                                                absl::Duration at_most = absl::Seconds(30)) const;

  // Plays traffic (flags of traffic_generator, spelled "--tcp=1000") and returns what was sent. It
  // is also an error if a packet was lost. Successive calls use fresh tuples automatically if all
  // have the same --clients.
  [[nodiscard]] absl::StatusOr<Traffic> Play(const std::vector<std::string>& flags,
                                             absl::Duration at_most = absl::Seconds(120));

  // The same in the background. After it ended with status 0, read the expectation from its file.
  [[nodiscard]] absl::StatusOr<std::unique_ptr<Subprocess>> StartPlay(
      const std::vector<std::string>& flags, const std::string& expectation_path);

  // All entries of the gateway's conntrack table, as the kernel counted them.
  [[nodiscard]] absl::StatusOr<Traffic> KernelCounters(uint64_t* flows = nullptr) const;

  // `conntrack -F`: destroys all entries at once.
  [[nodiscard]] absl::Status FlushConntrack() const;

 private:
  Gateway(std::string name, bool nat) : name_(std::move(name)), nat_(nat) {}

  const std::string name_;
  const bool nat_;
  bool up_ = true;
  uint64_t flows_played_ = 0;
};

// For SetUp of a test fixture (elsewhere return from the test yourself if
// testing::Test::IsSkipped()): skips the test, with the reason, where network namespaces cannot be
// made: not root, a container, a tool is missing. Where the environment says CI=true such a test
// must run, and fails instead. (Bazel hands CI on with --test_env=CI.)
void RequireRootOrSkip();

}  // namespace ctacct

#endif  // CTACCT_TESTS_SUPPORT_GATEWAY_H_
