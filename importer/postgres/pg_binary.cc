#include "importer/postgres/pg_binary.h"

#include <cstring>

namespace ctacct {
namespace {

// PostgreSQL counts time from 2000-01-01, in microseconds.
constexpr int64_t kPostgresEpochUs = 946'684'800'000'000;
// Address families of inet's binary form: PostgreSQL's own numbers, not the system's.
constexpr char kInetIpv4 = 2;
constexpr char kInetIpv6 = 3;
// More than any element of fixed size with its length.
constexpr size_t kElementBytesMax = 32;

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

char* PutText(char* at, absl::string_view text) {
  at = PutRaw32(at, static_cast<int32_t>(text.size()));
  std::memcpy(at, text.data(), text.size());
  return at + text.size();
}

char* PutInet(char* at, AddressFamily family, const AddressBytes& address) {
  const bool ipv4 = family == AddressFamily::kIpv4;
  const char bytes = ipv4 ? 4 : 16;
  at = PutRaw32(at, 4 + bytes);
  *at++ = ipv4 ? kInetIpv4 : kInetIpv6;
  *at++ = static_cast<char>(bytes * 8);  // Prefix length.
  *at++ = 0;                             // inet, not cidr.
  *at++ = bytes;
  std::memcpy(at, address.data(), static_cast<size_t>(bytes));
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

void PgArray::AppendInt4(int32_t value) {
  char element[kElementBytesMax];
  bytes_.append(element, static_cast<size_t>(PutInt4(element, value) - element));
}

void PgArray::AppendInt8(int64_t value) {
  char element[kElementBytesMax];
  bytes_.append(element, static_cast<size_t>(PutInt8(element, value) - element));
}

void PgArray::AppendTime(int64_t unix_ns) {
  char element[kElementBytesMax];
  bytes_.append(element, static_cast<size_t>(PutTime(element, unix_ns) - element));
}

void PgArray::AppendText(absl::string_view text) {
  char length[4];
  (void)PutRaw32(length, static_cast<int32_t>(text.size()));
  bytes_.append(length, sizeof(length));
  bytes_.append(text.data(), text.size());
}

void PgArray::AppendInet(AddressFamily family, const AddressBytes& address) {
  char element[kElementBytesMax];
  bytes_.append(element, static_cast<size_t>(PutInet(element, family, address) - element));
}

}  // namespace ctacct
