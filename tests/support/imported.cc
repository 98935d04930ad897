#include "tests/support/imported.h"

#include <arpa/inet.h>
#include <sys/socket.h>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/conditions.h"
#include "tests/support/files.h"

namespace ctacct {

std::vector<std::string> ImporterArgv(const PrivatePostgres& postgres, const std::string& spool) {
  return {DataPath("importer/importer"), "-conninfo=" + postgres.Conninfo(), "-watch=" + spool};
}

void Import(const PrivatePostgres& postgres, const std::string& spool) {
  const auto out = RunProcessOrError(Joined({ImporterArgv(postgres, spool), {"-once"}}), kPatience);
  ASSERT_TRUE(out.ok()) << out.status();
  EXPECT_THAT(VisibleNamesIn(spool), testing::IsEmpty());
}

namespace {

// In host order: of an IPv6 address the last 32 bits, which are the number of the generator's host.
uint32_t LastWord(const std::string& address) {
  uint8_t bytes[16];
  const bool ipv6 = inet_pton(AF_INET6, address.c_str(), bytes) == 1;
  if (!ipv6) return ParseAddress(address).value();
  return uint32_t{bytes[12]} << 24 | uint32_t{bytes[13]} << 16 | uint32_t{bytes[14]} << 8 |
         bytes[15];
}

}  // namespace

Traffic ImportedTraffic(const PrivatePostgres& postgres) {
  Traffic traffic;
  const auto rows = postgres.Sql(
      "postgres",
      "SELECT proto || CASE family(src) WHEN 6 THEN '6' ELSE '' END, host(src), host(dst), port, sum(src_packets), sum(dst_packets),"
      " sum(src_bytes), sum(dst_bytes), sum(connection_count) FROM vpn_traffic"
      " GROUP BY 1, 2, 3, 4 HAVING sum(src_packets + dst_packets + connection_count) > 0");
  EXPECT_TRUE(rows.ok()) << rows.status();
  for (absl::string_view line : absl::StrSplit(rows.value_or(""), '\n', absl::SkipEmpty())) {
    const std::vector<std::string> fields = absl::StrSplit(line, '|');
    TrafficKey key;
    TrafficTotals sums;
    uint64_t* const columns[] = {&sums.packets_src, &sums.packets_dst, &sums.bytes_src,
                                 &sums.bytes_dst, &sums.connection_count};
    bool sound = fields.size() == 9 && absl::SimpleAtoi(fields[3], &key.port);
    for (size_t i = 0; sound && i < 5; ++i) sound = absl::SimpleAtoi(fields[4 + i], columns[i]);
    EXPECT_TRUE(sound) << line;
    if (!sound) continue;
    key.protocol = fields[0];
    key.src = LastWord(fields[1]);
    key.dst = LastWord(fields[2]);
    traffic[key] += sums;
  }
  return traffic;
}

}  // namespace ctacct
