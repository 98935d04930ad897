#include "engine/spool/names_file.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "engine/rows/bounds.h"
#include "engine/rows/gateway_name.h"
#include "engine/system/durable_file.h"
#include "engine/system/text.h"
#include "xxhash.h"

namespace ctacct {
namespace {

constexpr absl::string_view kMagic = "ctacct-names\t";
constexpr absl::string_view kChecksum = "checksum\t";
constexpr uint64_t kVersion = 1;
constexpr size_t kChecksumDigits = 16;
// network, name, source, from, to
constexpr size_t kFields = 5;

constexpr std::array<absl::string_view, 3> kSources = {"file", "wireguard", "openvpn"};

std::string ChecksumText(absl::string_view bytes) {
  return absl::StrFormat("%016x", XXH3_64bits(bytes.data(), bytes.size()));
}

// Decimal digits as StrCat writes them.
bool ParseNumber(absl::string_view text, uint64_t* value) {
  return absl::SimpleAtoi(text, value) && text == absl::StrCat(*value);
}

bool ParseTime(absl::string_view text, int64_t* ns) {
  uint64_t value = 0;
  if (!ParseNumber(text, &value) || value >= static_cast<uint64_t>(kTimeEndNs)) return false;
  *ns = static_cast<int64_t>(value);
  return true;
}

bool ParseOptionalTime(absl::string_view text, std::optional<int64_t>* ns) {
  if (text.empty()) return true;
  return ParseTime(text, &ns->emplace());
}

bool ParseWriter(absl::string_view text, EngineId* id) {
  std::string digits(text);
  digits.erase(std::remove(digits.begin(), digits.end(), '-'), digits.end());
  if (digits.size() != 2 * id->size()) return false;
  for (size_t i = 0; i < id->size(); ++i) {
    // 0 where it is no number: then the text below is another one.
    std::from_chars(&digits[2 * i], &digits[2 * i] + 2, (*id)[i] = 0, 16);
  }
  return EngineIdText(*id) == text;
}

int64_t Begin(const NamesEntry& entry, int64_t snapshot_ns) {
  return entry.from_ns.value_or(snapshot_ns);
}

const char* HeaderProblem(const NamesSnapshot& snapshot) {
  if (snapshot.gateway.empty() || !CheckGatewayName(snapshot.gateway).ok()) {
    return "not the name of a gateway";
  }
  if (snapshot.sequence == 0 || snapshot.sequence > kSequenceMax) {
    return "the sequence is out of range";
  }
  if (!IsTime(snapshot.time_ns)) return "the time is out of range";
  if (snapshot.entries.size() > kNamesEntriesMax) return "more than 100,000 entries";
  return nullptr;
}

// What is wrong with an entry, given the one before it; nullptr if nothing is.
const char* EntryProblem(const NamesSnapshot& snapshot, size_t i) {
  const NamesEntry& entry = snapshot.entries[i];
  if (!CheckHolderName(entry.name).ok()) return "not a name";
  if ((entry.from_ns.has_value() && !IsTime(*entry.from_ns)) ||
      (entry.to_ns.has_value() && !IsTime(*entry.to_ns))) {
    return "a time is out of range";
  }
  const int64_t begin = Begin(entry, snapshot.time_ns);
  if (entry.to_ns.has_value() && *entry.to_ns <= begin) return "the range is empty";
  if (i == 0) return nullptr;
  const NamesEntry& before = snapshot.entries[i - 1];
  if (entry.network < before.network) return "the entries are not in order";
  if (entry.network > before.network) return nullptr;
  return before.to_ns.has_value() && *before.to_ns <= begin ? nullptr
                                                            : "two ranges of one network overlap";
}

// The lines of a file whose checksum holds, up to its checksum line.
class Lines {
 public:
  Lines(absl::string_view bytes, const std::string& path) : rest_(bytes), path_(path) {}

  // Without the '\n'; empty at the end, which no line of the format is.
  absl::string_view Next() {
    ++number_;
    const size_t end = rest_.find('\n');
    const absl::string_view line = rest_.substr(0, end);
    rest_.remove_prefix(end == absl::string_view::npos ? rest_.size() : end + 1);
    return line;
  }
  // The value of the next line, which is "key<TAB>value"; nullopt otherwise.
  std::optional<absl::string_view> NextValue(absl::string_view key) {
    absl::string_view line = Next();
    if (!absl::ConsumePrefix(&line, key) || !absl::ConsumePrefix(&line, "\t")) return std::nullopt;
    return line;
  }
  bool AtEnd() const { return rest_.empty(); }
  absl::Status Corrupt(absl::string_view why) const {
    return absl::DataLossError(absl::StrCat(path_, ": corrupt at line ", number_, ": ", why));
  }

 private:
  absl::string_view rest_;
  const std::string& path_;
  size_t number_ = 0;
};

// False if it has another number of fields.
bool SplitFields(absl::string_view line, std::array<absl::string_view, kFields>* fields) {
  for (size_t i = 0; i < kFields; ++i) {
    const size_t end = line.find('\t');
    if ((end == absl::string_view::npos) != (i + 1 == kFields)) return false;
    (*fields)[i] = line.substr(0, end);
    line.remove_prefix(end == absl::string_view::npos ? line.size() : end + 1);
  }
  return true;
}

// What is wrong with it; nullptr if nothing is.
const char* ParseEntry(absl::string_view line, NamesEntry* entry) {
  std::array<absl::string_view, kFields> fields;
  if (!SplitFields(line, &fields)) return "not five fields";
  const absl::StatusOr<Network> network = ParseNetwork(fields[0]);
  if (!network.ok() || NetworkText(*network) != fields[0]) return "not a network in its usual form";
  entry->network = *network;
  entry->name = std::string(fields[1]);
  const auto* const source = std::find(kSources.begin(), kSources.end(), fields[2]);
  if (source == kSources.end()) return "an unknown source";
  entry->source = static_cast<NameSource>(source - kSources.begin());
  if (!ParseOptionalTime(fields[3], &entry->from_ns) ||
      !ParseOptionalTime(fields[4], &entry->to_ns)) {
    return "a time is out of range";
  }
  return nullptr;
}

absl::Status ParseHeader(Lines* lines, NamesSnapshot* snapshot, uint64_t* entries) {
  const auto gateway = lines->NextValue("gateway");
  if (!gateway.has_value() || gateway->empty() || !CheckGatewayName(*gateway).ok()) {
    return lines->Corrupt("not a gateway's name");
  }
  snapshot->gateway = std::string(*gateway);
  const auto writer = lines->NextValue("writer");
  if (!writer.has_value() || !ParseWriter(*writer, &snapshot->writer)) {
    return lines->Corrupt("not a writer's UUID");
  }
  const auto sequence = lines->NextValue("sequence");
  if (!sequence.has_value() || !ParseNumber(*sequence, &snapshot->sequence) ||
      snapshot->sequence == 0 || snapshot->sequence > kSequenceMax) {
    return lines->Corrupt("not a sequence number");
  }
  const auto time = lines->NextValue("time");
  if (!time.has_value() || !ParseTime(*time, &snapshot->time_ns)) {
    return lines->Corrupt("not a time");
  }
  const auto count = lines->NextValue("entries");
  if (!count.has_value() || !ParseNumber(*count, entries) || *entries > kNamesEntriesMax) {
    return lines->Corrupt("not a number of entries");
  }
  return absl::OkStatus();
}

}  // namespace

absl::string_view NameSourceText(NameSource source) {
  return kSources[static_cast<size_t>(source)];
}

absl::Status CheckHolderName(absl::string_view name) {
  if (name.empty()) return absl::InvalidArgumentError("the name is empty");
  if (name.size() > kHolderBytesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("the name has more than ", kHolderBytesMax, " bytes"));
  }
  while (!name.empty()) {
    const size_t size = PrintableCharacterBytes(name);
    if (size == 0) {
      return absl::InvalidArgumentError("the name has control characters or is not UTF-8");
    }
    name.remove_prefix(size);
  }
  return absl::OkStatus();
}

std::string NamesFileName(const EngineId& writer, uint64_t sequence) {
  return absl::StrFormat("%s-%010d%s", EngineIdText(writer), sequence, kNamesFileEnd);
}

absl::StatusOr<std::string> EncodeNames(const NamesSnapshot& snapshot) {
  if (const char* const why = HeaderProblem(snapshot); why != nullptr) {
    return absl::InvalidArgumentError(absl::StrCat("names: ", why));
  }
  std::string bytes =
      absl::StrCat(kMagic, kVersion, "\ngateway\t", snapshot.gateway, "\nwriter\t",
                   EngineIdText(snapshot.writer), "\nsequence\t", snapshot.sequence, "\ntime\t",
                   snapshot.time_ns, "\nentries\t", snapshot.entries.size(), "\n");
  for (size_t i = 0; i < snapshot.entries.size(); ++i) {
    if (const char* const why = EntryProblem(snapshot, i); why != nullptr) {
      return absl::InvalidArgumentError(absl::StrCat("names: entry ", i, ": ", why));
    }
    const NamesEntry& entry = snapshot.entries[i];
    absl::StrAppend(&bytes, NetworkText(entry.network), "\t", entry.name, "\t",
                    NameSourceText(entry.source), "\t");
    if (entry.from_ns.has_value()) absl::StrAppend(&bytes, *entry.from_ns);
    bytes += '\t';
    if (entry.to_ns.has_value()) absl::StrAppend(&bytes, *entry.to_ns);
    bytes += '\n';
  }
  const std::string checksum = ChecksumText(bytes);
  absl::StrAppend(&bytes, kChecksum, checksum, "\n");
  if (bytes.size() > kNamesFileBytesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("names: more than ", kNamesFileBytesMax, " bytes"));
  }
  return bytes;
}

absl::StatusOr<NamesSnapshot> ParseNames(absl::string_view bytes, const std::string& path) {
  const auto corrupt = [&path](absl::string_view why) {
    return absl::DataLossError(absl::StrCat(path, ": corrupt: ", why));
  };
  if (bytes.size() > kNamesFileBytesMax) {
    return corrupt(absl::StrCat("more than ", kNamesFileBytesMax, " bytes"));
  }
  if (!absl::StartsWith(bytes, kMagic) && !absl::StartsWith(kMagic, bytes)) {
    return corrupt("not a names file");
  }
  // Only whole lines begin like this: a name has no '\n'.
  const size_t before_checksum = bytes.find(absl::StrCat("\n", kChecksum));
  const size_t end = before_checksum + 1;
  if (before_checksum == absl::string_view::npos ||
      bytes.size() < end + kChecksum.size() + kChecksumDigits + 1) {
    return absl::DataLossError(absl::StrCat(path, ": torn: ends before its checksum line does"));
  }
  if (bytes.substr(end) != absl::StrCat(kChecksum, ChecksumText(bytes.substr(0, end)), "\n")) {
    return corrupt("does not match its checksum, or bytes follow it");
  }
  Lines lines(bytes.substr(0, end), path);
  // The checksum was right, so another version is a newer one and not damage.
  uint64_t version = 0;
  if (!ParseNumber(lines.Next().substr(kMagic.size()), &version) || version == 0) {
    return lines.Corrupt("not a version");
  }
  if (version > kVersion) {
    return absl::UnimplementedError(
        absl::StrCat(path, ": of version ", version,
                     " of the names format; this program reads version ", kVersion));
  }
  NamesSnapshot snapshot;
  uint64_t entries = 0;
  if (absl::Status status = ParseHeader(&lines, &snapshot, &entries); !status.ok()) return status;
  // Not what the file claims: what its bytes can hold.
  snapshot.entries.reserve(std::min<uint64_t>(entries, bytes.size() / kFields));
  while (snapshot.entries.size() < entries) {
    const char* why = ParseEntry(lines.Next(), &snapshot.entries.emplace_back());
    if (why == nullptr) why = EntryProblem(snapshot, snapshot.entries.size() - 1);
    if (why != nullptr) return lines.Corrupt(why);
  }
  if (!lines.AtEnd()) {
    (void)lines.Next();
    return lines.Corrupt("more entries than the header says");
  }
  return snapshot;
}

absl::StatusOr<NamesSnapshot> ReadNamesFile(int fd, const std::string& path) {
  std::string bytes;
  std::vector<char> buffer(size_t{1} << 16);
  while (bytes.size() <= kNamesFileBytesMax) {
    const ssize_t got = pread(fd, buffer.data(), buffer.size(), static_cast<off_t>(bytes.size()));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return FileError("read", path, errno);
    if (got == 0) break;
    bytes.append(buffer.data(), static_cast<size_t>(got));
  }
  return ParseNames(bytes, path);
}

}  // namespace ctacct
