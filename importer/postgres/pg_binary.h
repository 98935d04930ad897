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
#include "absl/types/span.h"

namespace ctacct {

[[nodiscard]] char* PutRaw16(char* at, int16_t value);  // Without a length: counts, flags.
[[nodiscard]] char* PutRaw32(char* at, int32_t value);
[[nodiscard]] char* PutInt4(char* at, int32_t value);
[[nodiscard]] char* PutInt8(char* at, int64_t value);
[[nodiscard]] char* PutTime(char* at, int64_t unix_ns);  // timestamptz; rounds towards zero.
[[nodiscard]] char* PutString(char* at, absl::string_view text);
// An address in network byte order: 4 bytes are IPv4, 16 are IPv6. A single host each: masked
// addresses compare equal to plain ones, as in WHERE src = '10.32.1.0'.
[[nodiscard]] char* PutInet(char* at, absl::Span<const uint8_t> address);

// More than any element of fixed size with its length.
inline constexpr size_t kElementBytesMax = 32;

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

  void AppendInt4(int32_t value) { Append(PutInt4, value); }
  void AppendInt8(int64_t value) { Append(PutInt8, value); }
  void AppendTime(int64_t unix_ns) { Append(PutTime, unix_ns); }
  void AppendInet(absl::Span<const uint8_t> address) { Append(PutInet, address); }
  void AppendText(absl::string_view text);

  [[nodiscard]] std::string bytes() && { return static_cast<std::string&&>(bytes_); }

 private:
  template <typename Value>
  void Append(char* (*put)(char* at, Value value), Value value) {
    char element[kElementBytesMax];
    bytes_.append(element, static_cast<size_t>(put(element, value) - element));
  }

  std::string bytes_;
};

}  // namespace ctacct

#endif  // CTACCT_IMPORTER_POSTGRES_PG_BINARY_H_
