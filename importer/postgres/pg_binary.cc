#include "importer/postgres/pg_binary.h"

#include <cstring>

namespace ctacct {
namespace {

// PostgreSQL counts time from 2000-01-01, in microseconds.
constexpr int64_t kPostgresEpochUs = 946'684'800'000'000;
// Address families of inet's binary form: PostgreSQL's own numbers, not the system's.
constexpr char kInetIpv4 = 2;
constexpr char kInetIpv6 = 3;

}  // namespace

char* PutRaw16(char* at, int16_t value) {
  const uint16_t swapped = __builtin_bswap16(static_cast<uint16_t>(value));
  std::memcpy(at, &swapped, sizeof(swapped));
  return at + sizeof(swapped);
}

char* PutRaw32(char* at, int32_t value) {
  const uint32_t swapped = __builtin_bswap32(static_cast<uint32_t>(value));
  std::memcpy(at, &swapped, sizeof(swapped));
  return at + sizeof(swapped);
}

char* PutInt4(char* at, int32_t value) { return PutRaw32(PutRaw32(at, 4), value); }

char* PutInt8(char* at, int64_t value) {
  at = PutRaw32(at, 8);
  const uint64_t swapped = __builtin_bswap64(static_cast<uint64_t>(value));
  std::memcpy(at, &swapped, sizeof(swapped));
  return at + sizeof(swapped);
}

char* PutTime(char* at, int64_t unix_ns) { return PutInt8(at, unix_ns / 1000 - kPostgresEpochUs); }

char* PutString(char* at, absl::string_view text) {
  at = PutRaw32(at, static_cast<int32_t>(text.size()));
  std::memcpy(at, text.data(), text.size());
  return at + text.size();
}

char* PutInet(char* at, absl::Span<const uint8_t> address) {
  const auto bytes = static_cast<char>(address.size());
  at = PutRaw32(at, 4 + bytes);
  *at++ = bytes == 4 ? kInetIpv4 : kInetIpv6;
  *at++ = static_cast<char>(bytes * 8);  // Prefix length.
  *at++ = 0;                             // inet, not cidr.
  *at++ = bytes;
  std::memcpy(at, address.data(), address.size());
  return at + bytes;
}

PgArray::PgArray(PgType type, size_t count) {
  bytes_.reserve(20 + count * 12);
  char header[20];
  char* at = PutRaw32(header, count == 0 ? 0 : 1);  // Dimensions.
  at = PutRaw32(at, 0);                             // No NULLs.
  at = PutRaw32(at, static_cast<int32_t>(type));
  if (count != 0) at = PutRaw32(PutRaw32(at, static_cast<int32_t>(count)), 1);  // From 1 on.
  bytes_.append(header, static_cast<size_t>(at - header));
}

void PgArray::AppendText(absl::string_view text) {
  char length[4];
  (void)PutRaw32(length, static_cast<int32_t>(text.size()));
  bytes_.append(length, sizeof(length));
  bytes_.append(text.data(), text.size());
}

}  // namespace ctacct
