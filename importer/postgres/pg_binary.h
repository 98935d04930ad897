// PostgreSQL's binary form of values: big-endian, every value behind its length. Used by COPY
// (FORMAT binary) and for the arrays of a query's parameters.
//
// Each Put writes at `at` and returns the first byte behind it; the caller has made room. Pure.
// Source: the send functions of PostgreSQL's types (timestamptz_send, inet_send, array_send).
#ifndef CTACCT_IMPORTER_POSTGRES_PG_BINARY_H_
#define CTACCT_IMPORTER_POSTGRES_PG_BINARY_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "engine/rows/traffic_row.h"

namespace ctacct {

[[nodiscard]] char* PutRaw16(char* at, int16_t value);  // Without a length: counts, flags.
[[nodiscard]] char* PutRaw32(char* at, int32_t value);
[[nodiscard]] char* PutInt4(char* at, int32_t value);
[[nodiscard]] char* PutInt8(char* at, int64_t value);
[[nodiscard]] char* PutTime(char* at, int64_t unix_ns);  // timestamptz; rounds towards zero.
[[nodiscard]] char* PutText(char* at, absl::string_view text);
// A single host each: masked addresses compare equal to plain ones, as in WHERE src = '10.32.1.0'.
[[nodiscard]] char* PutInet(char* at, AddressFamily family, const AddressBytes& address);

inline constexpr size_t kInetBytesMax = 24;  // With its length.

// Object identifiers of the types: fixed, in the server's pg_type.dat.
enum class PgType : int32_t {
  kInt8 = 20,
  kInt4 = 23,
  kText = 25,
  kInet = 869,
  kTimestamptz = 1184
};

// An array of one dimension, all elements of one type and none NULL. Exactly `count` must follow.
class PgArray {
 public:
  PgArray(PgType type, size_t count);

  void AppendInt4(int32_t value);
  void AppendInt8(int64_t value);
  void AppendTime(int64_t unix_ns);
  void AppendText(absl::string_view text);
  void AppendInet(AddressFamily family, const AddressBytes& address);

  [[nodiscard]] std::string bytes() && { return static_cast<std::string&&>(bytes_); }

 private:
  std::string bytes_;
};

}  // namespace ctacct

#endif  // CTACCT_IMPORTER_POSTGRES_PG_BINARY_H_
