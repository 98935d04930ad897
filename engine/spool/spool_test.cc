#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "engine/rows/bounds.h"
#include "engine/rows/gap.h"
#include "engine/spool/spool_format.h"
#include "engine/spool/spool_reader.h"
#include "engine/spool/spool_writer.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "xxhash.h"

namespace ctacct {
namespace {

using ::testing::HasSubstr;

class SpoolTest : public ::testing::Test {
 protected:
  SpoolTest() {
    std::string pattern = absl::StrCat(::testing::TempDir(), "/spool.XXXXXX");
    folder_ = mkdtemp(pattern.data());
  }
  ~SpoolTest() override { std::filesystem::remove_all(folder_); }

  static SpoolHeader MakeHeader() {
    SpoolHeader header;
    for (size_t i = 0; i < header.engine_id.size(); ++i) {
      header.engine_id[i] = static_cast<uint8_t>(0x10 + i);
    }
    header.sequence = 7;
    header.interval_end_ns = 1'600'000'005'000'000'000;
    header.interval_length_ns = 15'000'000'000;
    header.created_ns = header.interval_end_ns + 1;
    header.covered_from_ns = header.interval_end_ns - 4'900'000'000;
    header.covered_to_ns = header.interval_end_ns + 100'000'000;
    header.events_dropped = 3;
    header.ports_checksum = 0x8877'6655'4433'2211;
    header.src_mask = {255, 255, 255, 0};
    header.dst_mask = {255, 239, 255, 0};
    header.src_mask6.fill(0);
    header.src_mask6[0] = 255;
    header.dst_mask6[15] = 0;
    header.light = true;
    header.completeness = Completeness::kResynced;
    header.track_open = true;
    header.gateway = "gw1.example";
    return header;
  }

  static TrafficRow MakeRow(uint64_t seed, AddressFamily family = AddressFamily::kIpv4) {
    std::mt19937_64 random(seed);
    TrafficRow row;
    row.time_ns = MakeHeader().interval_end_ns;
    row.family = family;
    row.protocol = static_cast<uint8_t>(random());
    row.port = static_cast<int32_t>(random() % 65537) - 1;
    for (size_t i = 0; i < (family == AddressFamily::kIpv4 ? 4u : 16u); ++i) {
      row.src[i] = static_cast<uint8_t>(random());
      row.dst[i] = static_cast<uint8_t>(random());
    }
    // Thousands of rows stay within the bounds of a file's sums.
    const auto some = [&random](uint64_t most) { return random() % (most + 1); };
    constexpr uint64_t kLarge = kSumMax >> 16;
    row.packets_src = some(kLarge);
    row.packets_dst = some(kLarge);
    row.bytes_src = some(kLarge);
    row.bytes_dst = some(kLarge);
    row.connection_time_ms = some(kLarge);
    row.connection_count = some(kCountMax);
    row.open_connections = some(kCountMax);
    row.flow_count = some(kCountMax);
    row.unanswered_count = some(row.flow_count);
    return row;
  }

  static Gap MakeGap(uint64_t seed) {
    std::mt19937_64 random(seed);
    Gap gap;
    gap.began_ns = MakeHeader().interval_end_ns - static_cast<int64_t>(random() % (1u << 30));
    gap.ended_ns = gap.began_ns + static_cast<int64_t>(random() % (1u << 30));
    gap.cause = static_cast<GapCause>(1 + random() % kGapCauses);
    gap.completeness = random() % 2 == 0 ? Completeness::kResynced : Completeness::kPartial;
    gap.events_dropped = random() >> 32;
    gap.flows_lost = random() >> 32;
    return gap;
  }

  std::string Write(const SpoolHeader& header, const std::vector<TrafficRow>& rows,
                    const std::vector<Gap>& gaps = {}) {
    const absl::StatusOr<std::string> name = WriteSpoolFile(folder_, header, rows, gaps);
    EXPECT_TRUE(name.ok()) << name.status();
    return name.ok() ? folder_ + "/" + *name : "";
  }

  static std::string Contents(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    std::stringstream text;
    text << file.rdbuf();
    return text.str();
  }

  // A memory file: thousands of damaged copies must not wear out a disk.
  absl::Status ReadBytes(const std::string& bytes, std::vector<TrafficRow>* all = nullptr,
                         std::vector<Gap>* gaps = nullptr) {
    const UniqueFd fd(memfd_create("spool", MFD_CLOEXEC));
    EXPECT_EQ(write(fd.get(), bytes.data(), bytes.size()), static_cast<ssize_t>(bytes.size()));
    absl::StatusOr<SpoolReader> reader = SpoolReader::FromFd(fd.get(), "FILE");
    if (!reader.ok()) return reader.status();
    std::vector<TrafficRow> rows;
    while (true) {
      const absl::StatusOr<bool> more = reader->ReadBlock(&rows);
      if (!more.ok()) return more.status();
      if (!*more) {
        if (gaps != nullptr) *gaps = reader->gaps();
        completeness_read_ = reader->header().completeness;
        return absl::OkStatus();
      }
      if (all != nullptr) all->insert(all->end(), rows.begin(), rows.end());
    }
  }

  static void Seal(std::string* bytes, size_t from, size_t to) {
    const uint64_t checksum = XXH3_64bits(bytes->data() + from, to - from);
    std::memcpy(bytes->data() + to, &checksum, sizeof(checksum));
  }
  // Makes all checksums of a file hold again, as a writer with other ideas would: what is wrong
  // with it is then for the reader to find. `blocks`: where each block begins, the end block last.
  static std::string Resealed(std::string bytes, const std::vector<size_t>& blocks) {
    constexpr size_t kChecksum = spool_format::kChecksumBytes;
    Seal(&bytes, 0, blocks[0] - kChecksum);
    for (size_t i = 0; i + 1 < blocks.size(); ++i) {
      Seal(&bytes, blocks[i], blocks[i + 1] - kChecksum);
    }
    const size_t end = blocks.back();
    const size_t file_checksum = end + 8 + offsetof(spool_format::End, file_checksum);
    const uint64_t checksum = XXH3_64bits(bytes.data(), end);
    std::memcpy(bytes.data() + file_checksum, &checksum, sizeof(checksum));
    Seal(&bytes, end, bytes.size() - kChecksum);
    return bytes;
  }

  // Bytes of a hex dump as SPOOL_FORMAT.md has it, other lines passed over.
  static std::string FromHexDump(std::istream& text) {
    std::string bytes;
    for (std::string line; std::getline(text, line);) {
      constexpr size_t kHexAt = 10;  // Behind "00000000: ".
      if (line.size() < kHexAt + 23 || line.find(": ") != 8) continue;
      bytes.resize(std::strtoull(line.c_str(), nullptr, 16), '\0');  // What a '*' stands for.
      for (size_t at = kHexAt; at + 2 <= line.size() && line[at] != ' '; at += 3) {
        bytes.push_back(static_cast<char>(std::strtol(line.substr(at, 2).c_str(), nullptr, 16)));
      }
    }
    return bytes;
  }

  std::string folder_;
  Completeness completeness_read_ = Completeness::kComplete;  // By ReadBytes, last.
};

TEST_F(SpoolTest, ReadsBackWhatWasWritten) {
  std::vector<TrafficRow> rows;
  for (uint64_t i = 0; i < 2 * spool_format::kBlockRowsMax + 17; ++i) rows.push_back(MakeRow(i));
  const std::string path = Write(MakeHeader(), rows);
  absl::StatusOr<SpoolReader> reader = SpoolReader::Open(path);
  ASSERT_TRUE(reader.ok()) << reader.status();
  EXPECT_EQ(reader->header(), MakeHeader());
  std::vector<TrafficRow> all;
  std::vector<TrafficRow> block;
  int blocks = 0;
  while (true) {
    const absl::StatusOr<bool> more = reader->ReadBlock(&block);
    ASSERT_TRUE(more.ok()) << more.status();
    if (!*more) break;
    EXPECT_LE(block.size(), spool_format::kBlockRowsMax);
    all.insert(all.end(), block.begin(), block.end());
    ++blocks;
  }
  EXPECT_EQ(blocks, 3);
  EXPECT_EQ(all, rows);
  EXPECT_EQ(reader->totals().row_count, rows.size());
  uint64_t packets_src = 0;
  for (const TrafficRow& row : rows) packets_src += row.packets_src;
  EXPECT_EQ(reader->totals().packets_src, packets_src);
  // Asked again it stays at the end.
  const absl::StatusOr<bool> more = reader->ReadBlock(&block);
  ASSERT_TRUE(more.ok());
  EXPECT_FALSE(*more);
}

TEST_F(SpoolTest, KeepsBothFamilies) {
  const std::vector<TrafficRow> rows = {MakeRow(1, AddressFamily::kIpv6), MakeRow(2),
                                        MakeRow(3, AddressFamily::kIpv6)};
  std::vector<TrafficRow> all;
  ASSERT_TRUE(ReadBytes(Contents(Write(MakeHeader(), rows)), &all).ok());
  EXPECT_EQ(all, (std::vector<TrafficRow>{rows[1], rows[0], rows[2]}));
}

TEST_F(SpoolTest, AnIntervalWithoutTrafficIsAFileWithoutRows) {
  const std::string path = Write(MakeHeader(), {});
  EXPECT_EQ(std::filesystem::file_size(path), 408u + 64u);
  EXPECT_TRUE(ReadBytes(Contents(path)).ok());
}

TEST_F(SpoolTest, NameAndModeAreAsDocumented) {
  const std::string path = Write(MakeHeader(), {MakeRow(1)});
  EXPECT_EQ(path, folder_ + "/10111213-1415-1617-1819-1a1b1c1d1e1f-0000000007.spool");
  struct stat info;
  ASSERT_EQ(stat(path.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 0640u);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder_), {}), 1);
}

TEST_F(SpoolTest, TheSameRowsAndHeaderAreTheSameBytes) {
  const std::string first = Contents(Write(MakeHeader(), {MakeRow(1)}));
  std::filesystem::remove(folder_ + "/" + SpoolFileName(MakeHeader().engine_id, 7));
  EXPECT_EQ(Contents(Write(MakeHeader(), {MakeRow(1)})), first);
}

// A document that shows other bytes than the writer makes is worse than no document.
TEST_F(SpoolTest, TheDocumentsExampleIsTrue) {
  SpoolHeader header = MakeHeader();
  header.engine_id[6] = 0x76;
  header.engine_id[8] = 0x98;
  header.created_ns = header.interval_end_ns + 31'000'000;
  header.covered_from_ns = header.interval_end_ns - 15'000'000'000;
  header.covered_to_ns = header.interval_end_ns;
  header.ports_checksum = 0;
  header.src_mask = header.dst_mask = {255, 255, 255, 0};
  header.src_mask6 = header.dst_mask6 = kMask6All;
  header.light = false;
  header.events_dropped = 42;
  header.completeness = Completeness::kResynced;
  header.gateway = "gw1";
  TrafficRow row;
  row.time_ns = header.interval_end_ns;
  row.protocol = 6;
  row.port = 443;
  row.src = {10, 32, 251, 0};
  row.dst = {10, 32, 250, 0};
  row.packets_src = 16;
  row.packets_dst = 13;
  row.bytes_src = 3220;
  row.bytes_dst = 1884;
  row.connection_count = 1;
  row.connection_time_ms = 65'021;
  row.open_connections = 3;
  row.flow_count = 2;
  row.unanswered_count = 1;

  Gap gap;
  gap.began_ns = header.interval_end_ns - 5'250'000'000;
  gap.ended_ns = header.interval_end_ns - 5'000'000'000;
  gap.cause = GapCause::kOverrun;
  gap.completeness = Completeness::kResynced;
  gap.events_dropped = 42;

  std::ifstream document("engine/spool/SPOOL_FORMAT.md");
  ASSERT_TRUE(document.good());
  const std::string example = FromHexDump(document);
  EXPECT_EQ(example.size(), 616u);
  EXPECT_EQ(Contents(Write(header, {row}, {gap})), example);
}

TEST_F(SpoolTest, KeepsGaps) {
  std::vector<TrafficRow> rows;
  for (uint64_t i = 0; i < spool_format::kBlockRowsMax + 1; ++i) rows.push_back(MakeRow(i));
  std::vector<Gap> gaps;
  for (uint64_t i = 0; i < spool_format::kGapsMax; ++i) gaps.push_back(MakeGap(i));
  std::vector<TrafficRow> rows_read;
  std::vector<Gap> gaps_read;
  ASSERT_TRUE(ReadBytes(Contents(Write(MakeHeader(), rows, gaps)), &rows_read, &gaps_read).ok());
  EXPECT_EQ(rows_read, rows);
  EXPECT_EQ(gaps_read, gaps);
  // An interval of which nothing else is known.
  SpoolHeader header = MakeHeader();
  header.sequence = 8;
  rows_read.clear();
  const std::string only = Contents(Write(header, {}, {gaps[0]}));
  EXPECT_EQ(only.size(), 408u + 56u + 64u);
  ASSERT_TRUE(ReadBytes(only, &rows_read, &gaps_read).ok());
  EXPECT_TRUE(rows_read.empty());
  EXPECT_EQ(gaps_read, std::vector<Gap>{gaps[0]});
  // Whatever the header claims.
  for (const Completeness claimed :
       {Completeness::kComplete, Completeness::kResynced, Completeness::kPartial}) {
    for (const Completeness of_gap : {Completeness::kResynced, Completeness::kPartial}) {
      header.completeness = claimed;
      gaps[0].completeness = of_gap;
      ++header.sequence;
      ASSERT_TRUE(ReadBytes(Contents(Write(header, {}, {gaps[0]})), &rows_read, &gaps_read).ok());
      EXPECT_EQ(completeness_read_, std::max(claimed, of_gap));
    }
  }
}

TEST_F(SpoolTest, AGapThatCannotBeIsNamed) {
  constexpr size_t kHeader = sizeof(spool_format::Header);
  constexpr size_t kRows = 8 + 72 + 8;
  constexpr size_t kGaps = 8 + 2 * 40 + 8;
  const std::vector<size_t> blocks = {kHeader, kHeader + kRows, kHeader + kRows + kGaps};
  const std::string sound = Contents(Write(MakeHeader(), {MakeRow(1)}, {MakeGap(1), MakeGap(2)}));
  ASSERT_EQ(sound.size(), kHeader + kRows + kGaps + 64);
  ASSERT_EQ(Resealed(sound, blocks), sound);
  const size_t gap = kHeader + kRows + 8 + 40;  // The second one.
  const auto expect = [&](size_t at, const std::string& bytes, size_t said_at,
                          const std::string& why) {
    std::string damaged = sound;
    damaged.replace(at, bytes.size(), bytes);
    const absl::Status status = ReadBytes(Resealed(damaged, blocks));
    EXPECT_TRUE(absl::IsDataLoss(status)) << why << ": " << status;
    EXPECT_EQ(std::string(status.message()),
              absl::StrCat("FILE: corrupt at byte ", said_at, ": ", why));
  };
  Gap backwards = MakeGap(2);
  backwards.ended_ns = backwards.began_ns - 1;
  expect(gap + 8, std::string(reinterpret_cast<const char*>(&backwards.ended_ns), 8), gap,
         "a gap ends before it began");
  for (const char cause : {0, 7, 255}) {
    expect(gap + 32, std::string(1, cause), gap, "a gap has no known cause");
  }
  for (const char completeness : {0, 3}) {
    expect(gap + 33, std::string(1, completeness), gap, "a gap is neither resynced nor partial");
  }
  for (size_t i = 34; i < 40; ++i) {
    expect(gap + i, "\x01", gap, "a gap's reserved bytes are not zero");
  }
  const size_t head = kHeader + kRows;
  expect(head + 1, "\x04", head, "impossible gap block");
  // Twice the records of half the size.
  expect(head + 2, std::string("\x14\0\x04\0\0\0", 6), head, "impossible gap block");
  expect(head, "\x04", head, "a block of an unknown type");
  for (const char version : {0, 1, 2}) {
    expect(8, std::string(1, version), 8, "no such version, or not with a header of this size");
  }
}

TEST_F(SpoolTest, GapsComeOnceAndBehindTheRows) {
  constexpr size_t kHeader = sizeof(spool_format::Header);
  const std::string sound = Contents(Write(MakeHeader(), {MakeRow(1)}, {MakeGap(1)}));
  const std::string rows = sound.substr(kHeader, 88);
  const std::string gaps = sound.substr(kHeader + 88, 56);
  const std::string end = sound.substr(kHeader + 88 + 56);
  for (const std::string& wrong : {gaps + rows, rows + gaps + gaps}) {
    std::vector<size_t> blocks = {kHeader};
    for (size_t at = 0; at < wrong.size();) {
      at += wrong[at] == 1 ? 88 : 56;
      blocks.push_back(kHeader + at);
    }
    const absl::Status status = ReadBytes(Resealed(sound.substr(0, kHeader) + wrong + end, blocks));
    EXPECT_TRUE(absl::IsDataLoss(status)) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("not the end block behind the gap block"));
  }
  // Left out: the file's checksum knows.
  EXPECT_TRUE(absl::IsDataLoss(ReadBytes(sound.substr(0, kHeader) + rows + end)));
}

TEST_F(SpoolTest, NeverReplacesAFile) {
  const std::string path = Write(MakeHeader(), {MakeRow(1)});
  const std::string before = Contents(path);
  EXPECT_TRUE(absl::IsAlreadyExists(WriteSpoolFile(folder_, MakeHeader(), {MakeRow(2)}).status()));
  EXPECT_EQ(Contents(path), before);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder_), {}), 1);
}

TEST_F(SpoolTest, RejectsWhatTheFormatCannotHold) {
  const auto write = [this](const SpoolHeader& header, const TrafficRow& row) {
    return WriteSpoolFile(folder_, header, {row}).status();
  };
  TrafficRow row = MakeRow(1);
  row.time_ns += 1;
  EXPECT_TRUE(absl::IsInvalidArgument(write(MakeHeader(), row)));
  row = MakeRow(1);
  row.port = -2;
  EXPECT_TRUE(absl::IsInvalidArgument(write(MakeHeader(), row)));
  const auto write_gap = [this](const Gap& gap) {
    return WriteSpoolFile(folder_, MakeHeader(), {MakeRow(1)}, {gap}).status();
  };
  Gap gap = MakeGap(1);
  gap.ended_ns = gap.began_ns - 1;
  EXPECT_TRUE(absl::IsInvalidArgument(write_gap(gap)));
  gap = MakeGap(1);
  gap.cause = static_cast<GapCause>(0);
  EXPECT_TRUE(absl::IsInvalidArgument(write_gap(gap)));
  gap = MakeGap(1);
  gap.completeness = Completeness::kComplete;
  EXPECT_TRUE(absl::IsInvalidArgument(write_gap(gap)));
  const std::vector<Gap> many(spool_format::kGapsMax + 1, MakeGap(1));
  EXPECT_TRUE(
      absl::IsInvalidArgument(WriteSpoolFile(folder_, MakeHeader(), {MakeRow(1)}, many).status()));
  EXPECT_TRUE(std::filesystem::is_empty(folder_));
}

// A file of two IPv4 rows, one IPv6 row and two gaps, and where its parts are.
struct File {
  SpoolHeader header;
  std::vector<TrafficRow> rows;
  std::vector<Gap> gaps;
};
constexpr size_t kRow1 = sizeof(spool_format::Header) + sizeof(spool_format::BlockHeader);
constexpr size_t kRow2 = kRow1 + sizeof(spool_format::Ipv4Row);
constexpr size_t kRow6 = kRow2 + sizeof(spool_format::Ipv4Row) + spool_format::kChecksumBytes +
                         sizeof(spool_format::BlockHeader);
constexpr size_t kGapBlockAt = kRow6 + sizeof(spool_format::Ipv6Row) + spool_format::kChecksumBytes;
constexpr size_t kGap1 = kGapBlockAt + sizeof(spool_format::BlockHeader);

// As WriteSpoolFile encodes it, whatever the numbers are.
class Encoder {
 public:
  std::string Encode(const File& file) {
    spool_format::Header header = {};
    std::memcpy(header.magic, spool_format::kMagic, sizeof(header.magic));
    header.version = spool_format::kVersion;
    header.header_bytes = sizeof(header);
    header.flags = (file.header.track_open ? spool_format::kFlagTrackOpen : 0) |
                   (file.header.light ? spool_format::kFlagLight : 0);
    header.completeness = static_cast<uint8_t>(file.header.completeness);
    header.gateway_bytes = static_cast<uint8_t>(file.header.gateway.size());
    Copy(file.header.engine_id, header.engine_id);
    header.sequence = file.header.sequence;
    header.interval_end_ns = file.header.interval_end_ns;
    header.interval_length_ns = file.header.interval_length_ns;
    header.created_ns = file.header.created_ns;
    header.covered_from_ns = file.header.covered_from_ns;
    header.covered_to_ns = file.header.covered_to_ns;
    header.events_dropped = file.header.events_dropped;
    header.ports_checksum = file.header.ports_checksum;
    Copy(file.header.src_mask, header.src_mask);
    Copy(file.header.dst_mask, header.dst_mask);
    Copy(file.header.src_mask6, header.src_mask6);
    Copy(file.header.dst_mask6, header.dst_mask6);
    std::memcpy(header.gateway, file.header.gateway.data(), file.header.gateway.size());
    Append(&header, offsetof(spool_format::Header, checksum));
    Seal(0);
    Rows<spool_format::Ipv4Row>(file.rows, AddressFamily::kIpv4);
    Rows<spool_format::Ipv6Row>(file.rows, AddressFamily::kIpv6);
    Gaps(file.gaps);
    end_.file_checksum = XXH3_64bits(bytes_.data(), bytes_.size());
    Block(spool_format::kEndBlock, 0, sizeof(end_), {Bytes(end_)});
    return bytes_;
  }

 private:
  template <typename From, typename To>
  static void Copy(const From& from, To& to) {
    std::memcpy(to, from.data(), sizeof(to));
  }
  template <typename Struct>
  static std::string Bytes(const Struct& value) {
    return std::string(reinterpret_cast<const char*>(&value), sizeof(value));
  }
  void Append(const void* bytes, size_t size) {
    bytes_.append(static_cast<const char*>(bytes), size);
  }
  void Seal(size_t from) {
    const uint64_t checksum = XXH3_64bits(bytes_.data() + from, bytes_.size() - from);
    Append(&checksum, sizeof(checksum));
  }
  void Block(uint8_t type, uint8_t family, size_t row_bytes, const std::vector<std::string>& rows) {
    if (rows.empty()) return;
    const size_t from = bytes_.size();
    const spool_format::BlockHeader head = {type, family, static_cast<uint16_t>(row_bytes),
                                            static_cast<uint32_t>(rows.size())};
    Append(&head, sizeof(head));
    for (const std::string& row : rows) bytes_ += row;
    Seal(from);
  }
  template <typename DiskRow>
  void Rows(const std::vector<TrafficRow>& rows, AddressFamily family) {
    std::vector<std::string> encoded;
    for (const TrafficRow& row : rows) {
      if (row.family != family) continue;
      DiskRow disk = {};
      disk.protocol = row.protocol;
      disk.port = row.port;
      Copy(row.src, disk.src);
      Copy(row.dst, disk.dst);
      end_.packets_src += disk.packets_src = row.packets_src;
      end_.packets_dst += disk.packets_dst = row.packets_dst;
      end_.bytes_src += disk.bytes_src = row.bytes_src;
      end_.bytes_dst += disk.bytes_dst = row.bytes_dst;
      disk.connection_time_ms = row.connection_time_ms;
      disk.connection_count = static_cast<uint32_t>(row.connection_count);
      disk.open_connections = static_cast<uint32_t>(row.open_connections);
      disk.flow_count = static_cast<uint32_t>(row.flow_count);
      disk.unanswered_count = static_cast<uint32_t>(row.unanswered_count);
      encoded.push_back(Bytes(disk));
      ++end_.row_count;
    }
    Block(spool_format::kRowBlock, static_cast<uint8_t>(family), sizeof(DiskRow), encoded);
  }
  void Gaps(const std::vector<Gap>& gaps) {
    std::vector<std::string> encoded;
    for (const Gap& gap : gaps) {
      spool_format::GapRecord disk = {};
      disk.began_ns = gap.began_ns;
      disk.ended_ns = gap.ended_ns;
      disk.events_dropped = gap.events_dropped;
      disk.flows_lost = gap.flows_lost;
      disk.cause = static_cast<uint8_t>(gap.cause);
      disk.completeness = static_cast<uint8_t>(gap.completeness);
      encoded.push_back(Bytes(disk));
    }
    Block(spool_format::kGapBlock, 0, sizeof(spool_format::GapRecord), encoded);
  }

  std::string bytes_;
  spool_format::End end_;
};

// One bound: a file just within it, and one just beyond.
struct Bound {
  std::string name;
  std::function<void(File*)> within;
  std::function<void(File*)> beyond;
  size_t byte;  // Where the reader says that it is.
  std::string why;
};

// A bound of a number.
template <typename Of, typename Field, typename Number>
Bound BoundOf(const std::string& name, const Of& of, Field field, Number within, Number beyond,
              size_t byte, const std::string& why) {
  return {name, [=](File* file) { of(file).*field = within; },
          [=](File* file) { of(file).*field = beyond; }, byte, why};
}

std::vector<Bound> HeaderBounds() {
  constexpr int64_t kSecond = 1'000'000'000;
  constexpr int64_t kEnd = 7'258'118'400 * kSecond;  // 2200-01-01.
  constexpr int64_t kTwoDays = 2 * 86'400 * kSecond;
  constexpr int64_t kInterval = 1'600'000'005 * kSecond;
  using spool_format::Header;
  const auto of = [](File* file) -> SpoolHeader& { return file->header; };
  std::vector<Bound> bounds = {
      BoundOf("sequence_least", of, &SpoolHeader::sequence, uint64_t{1}, uint64_t{0},
              offsetof(Header, sequence), "the sequence is 0"),
      BoundOf("sequence_most", of, &SpoolHeader::sequence, (uint64_t{1} << 63) - 1,
              uint64_t{1} << 63, offsetof(Header, sequence), "the sequence is 2^63 or more"),
      BoundOf("created_least", of, &SpoolHeader::created_ns, int64_t{0}, int64_t{-1},
              offsetof(Header, created_ns), "it was created before 1970"),
      BoundOf("created_most", of, &SpoolHeader::created_ns, kEnd - 1, kEnd,
              offsetof(Header, created_ns), "it was created before 1970 or after 2199"),
      BoundOf("events_most", of, &SpoolHeader::events_dropped, uint64_t{1} << 53,
              (uint64_t{1} << 53) + 1, offsetof(Header, events_dropped),
              "the events dropped are more than 2^53"),
      BoundOf("completeness_most", of, &SpoolHeader::completeness, Completeness::kPartial,
              static_cast<Completeness>(3), offsetof(Header, completeness),
              "its completeness is unknown"),
      BoundOf("covered_from_far", of, &SpoolHeader::covered_from_ns, kInterval - kTwoDays,
              kInterval - kTwoDays - 1, offsetof(Header, covered_from_ns),
              "the covered time begins more than 2 days from the interval's end"),
      BoundOf("covered_to_far", of, &SpoolHeader::covered_to_ns, kInterval + kTwoDays,
              kInterval + kTwoDays + 1, offsetof(Header, covered_to_ns),
              "the covered time ends more than 2 days from the interval's end"),
      BoundOf("gateway_length", of, &SpoolHeader::gateway, std::string(255, 'g'),
              std::string("gw1\n"), offsetof(Header, gateway),
              "the gateway's name is not UTF-8, or has control characters"),
  };
  const auto interval = [&bounds](const std::string& name, int64_t end, int64_t length,
                                  int64_t bad_end, int64_t bad_length, size_t byte,
                                  const std::string& why) {
    const auto set = [](int64_t new_end, int64_t new_length) {
      return [=](File* file) {
        file->header.interval_end_ns = new_end;
        file->header.interval_length_ns = new_length;
        file->header.covered_from_ns = file->header.covered_to_ns = 0;
        for (TrafficRow& row : file->rows) row.time_ns = new_end;
      };
    };
    bounds.push_back({name, set(end, length), set(bad_end, bad_length), byte, why});
  };
  constexpr size_t kEndAt = offsetof(Header, interval_end_ns);
  constexpr size_t kLengthAt = offsetof(Header, interval_length_ns);
  constexpr char kLength[] = "the interval's length is not 1 to 86400 whole seconds";
  constexpr char kEnds[] = "the interval ends before 1970 or after 2199";
  constexpr char kMultiple[] = "the interval's end is not a multiple of its length";
  interval("end_least", 0, kSecond, -kSecond, kSecond, kEndAt, kEnds);
  interval("end_most", kEnd - kSecond, kSecond, kEnd, kSecond, kEndAt, kEnds);
  interval("length_least", kInterval, kSecond, kInterval, kSecond - 1, kLengthAt, kLength);
  interval("length_zero", kInterval, kSecond, kInterval, 0, kLengthAt, kLength);
  interval("length_most", 86'400 * kSecond, 86'400 * kSecond, 86'401 * kSecond, 86'401 * kSecond,
           kLengthAt, kLength);
  interval("length_wide", 86'400 * kSecond, 86'400 * kSecond, 0, int64_t{1} << 62, kLengthAt,
           kLength);
  interval("length_whole", 3 * kSecond, 3 * kSecond, 3 * kSecond, kSecond * 3 / 2, kLengthAt,
           kLength);
  interval("end_multiple", 30 * kSecond, 15 * kSecond, 31 * kSecond, 15 * kSecond, kEndAt,
           kMultiple);
  const auto covered = [&bounds](const std::string& name, int64_t from, int64_t to,
                                 int64_t bad_from, int64_t bad_to, size_t byte,
                                 const std::string& why) {
    const auto set = [](int64_t new_from, int64_t new_to) {
      return [=](File* file) {
        file->header.covered_from_ns = new_from;
        file->header.covered_to_ns = new_to;
      };
    };
    bounds.push_back({name, set(from, to), set(bad_from, bad_to), byte, why});
  };
  covered("covered_least", 0, 0, -1, 0, offsetof(Header, covered_from_ns),
          "the covered time begins before 1970 or after 2199");
  covered("covered_most", kEnd - 1, kEnd - 1, kInterval, kEnd, offsetof(Header, covered_to_ns),
          "the covered time ends before 1970 or after 2199");
  covered("covered_order", kInterval, kInterval, kInterval, kInterval - 1,
          offsetof(Header, covered_to_ns), "the covered time ends before it began");
  // Names: the last character that is allowed before those that are not, then one of these.
  const auto name = [&bounds](const std::string& what, const std::string& good,
                              const std::string& bad) {
    bounds.push_back(
        {"gateway_" + what, [=](File* file) { file->header.gateway = "a" + good + "b"; },
         [=](File* file) { file->header.gateway = "a" + bad + "b"; }, offsetof(Header, gateway),
         "the gateway's name is not UTF-8, or has control characters"});
  };
  name("c0", "\x20", "\x1f");
  name("del", "\x7e", "\x7f");
  name("c1_first", "\u00a0", "\u0080");
  name("c1_nel", "\u00a0", "\u0085");
  name("c1_csi", "\u00a0", "\u009b");
  name("c1_last", "\u00a0", "\u009f");
  name("arabic_mark", "\u061b", "\u061c");
  name("left_to_right_mark", "\u200d", "\u200e");
  name("right_to_left_mark", "\u2010", "\u200f");
  name("line_separator", "\u2027", "\u2028");
  name("paragraph_separator", "\u2027", "\u2029");
  name("embedding", "\u2027", "\u202a");
  name("override", "\u202f", "\u202e");
  name("isolate_first", "\u2065", "\u2066");
  name("isolate_last", "\u206a", "\u2069");
  name("utf8", "\u00fc", "\xfc");
  return bounds;
}

std::vector<Bound> RowBounds() {
  std::vector<Bound> bounds;
  const auto first = [](File* file) -> TrafficRow& { return file->rows[0]; };
  const auto ipv6 = [](File* file) -> TrafficRow& { return file->rows[2]; };
  bounds.push_back(BoundOf("port_least", first, &TrafficRow::port, -1, -2, kRow1,
                           "a row's port is out of range"));
  bounds.push_back(BoundOf("port_most", ipv6, &TrafficRow::port, 65535, 65536, kRow6,
                           "a row's port is out of range"));
  for (const RowCounter& counter : kRowCounters) {
    const bool counts = counter.most == 0x7fff'ffff;
    EXPECT_TRUE(counts || counter.most == uint64_t{1} << 53) << counter.name;
    for (const size_t row : {0, 2}) {
      const auto set = [counter, row](uint64_t value) {
        return [=](File* file) {
          for (TrafficRow& other : file->rows) {
            other.*counter.value = 0;
            other.unanswered_count = 0;
          }
          file->rows[row].flow_count = 0x7fff'ffff;
          file->rows[row].*counter.value = value;
        };
      };
      bounds.push_back({absl::StrCat(counter.name, row == 0 ? "" : "_ipv6"), set(counter.most),
                        set(counter.most + 1), row == 0 ? kRow1 : kRow6,
                        absl::StrCat("a row's ", counter.name, " is more than ", counter.most)});
    }
    if (counts) continue;
    const auto sum = [counter](uint64_t last) {
      return [=](File* file) {
        file->rows[0].*counter.value = (uint64_t{1} << 53) - 2;
        file->rows[1].*counter.value = 1;
        file->rows[2].*counter.value = last;
      };
    };
    bounds.push_back(
        {absl::StrCat(counter.name, "_sum"), sum(1), sum(2), kRow6,
         absl::StrCat("the rows' ", counter.name, " add up to more than 9007199254740992")});
  }
  bounds.push_back(
      {"unanswered_of_flows",
       [](File* file) { file->rows[1].unanswered_count = file->rows[1].flow_count; },
       [](File* file) { file->rows[1].unanswered_count = file->rows[1].flow_count + 1; }, kRow2,
       "a row's unanswered_count is more than its flow_count"});
  bounds.push_back({"open_not_tracked",
                    [](File* file) {
                      file->header.track_open = false;
                      for (TrafficRow& row : file->rows) row.open_connections = 0;
                    },
                    [](File* file) { file->header.track_open = false; }, kRow1,
                    "a row has open_connections"});
  return bounds;
}

std::vector<Bound> GapBounds() {
  constexpr int64_t kEnd = 7'258'118'400'000'000'000;
  constexpr uint64_t kMost = uint64_t{1} << 53;
  const auto of = [](File* file) -> Gap& { return file->gaps[0]; };
  std::vector<Bound> bounds = {
      BoundOf("gap_began", of, &Gap::began_ns, int64_t{0}, int64_t{-1}, kGap1,
              "a gap's beginning is before 1970 or after 2199"),
      BoundOf("gap_ended", of, &Gap::ended_ns, kEnd - 1, kEnd, kGap1,
              "a gap's end is before 1970 or after 2199"),
      BoundOf("gap_cause_least", of, &Gap::cause, GapCause::kOverrun, static_cast<GapCause>(0),
              kGap1, "a gap has no known cause"),
      BoundOf("gap_cause_most", of, &Gap::cause, GapCause::kRenamed, static_cast<GapCause>(7),
              kGap1, "a gap has no known cause"),
      BoundOf("gap_completeness_least", of, &Gap::completeness, Completeness::kResynced,
              Completeness::kComplete, kGap1, "a gap is neither resynced nor partial"),
      BoundOf("gap_completeness_most", of, &Gap::completeness, Completeness::kPartial,
              static_cast<Completeness>(3), kGap1, "a gap is neither resynced nor partial"),
  };
  bounds.push_back({"gap_order",
                    [](File* file) { file->gaps[0].ended_ns = file->gaps[0].began_ns; },
                    [](File* file) { file->gaps[0].ended_ns = file->gaps[0].began_ns - 1; }, kGap1,
                    "a gap ends before it began"});
  struct Count {
    uint64_t Gap::*value;
    const char* name;
    const char* text;
  };
  for (const Count& count : {Count{&Gap::events_dropped, "gap_events", "events dropped"},
                             Count{&Gap::flows_lost, "gap_flows", "flows lost"}}) {
    const auto set = [count](uint64_t first, uint64_t second) {
      return [=](File* file) {
        file->gaps[0].*count.value = first;
        file->gaps[1].*count.value = second;
      };
    };
    bounds.push_back({count.name, set(kMost, 0), set(kMost + 1, 0), kGap1,
                      absl::StrCat("a gap's ", count.text, " are more than ", kMost)});
    bounds.push_back({absl::StrCat(count.name, "_sum"), set(kMost - 1, 1), set(kMost - 1, 2),
                      kGapBlockAt,
                      absl::StrCat("the gaps' ", count.text, " add up to more than ", kMost)});
  }
  return bounds;
}

// Values that a file may not have: the writer refuses to write them, and the reader refuses to read
// them, with the field's name and offset.
TEST_F(SpoolTest, EveryFieldHasItsBounds) {
  File sound;
  sound.header = MakeHeader();
  TrafficRow row;
  row.time_ns = sound.header.interval_end_ns;
  row.protocol = 6;
  row.port = 443;
  row.src = {10, 32, 251, 0};
  for (const RowCounter& counter : kRowCounters) row.*counter.value = 1;
  sound.rows = {row, row, row};
  sound.rows[2].family = AddressFamily::kIpv6;
  sound.gaps = {MakeGap(1), MakeGap(2)};
  ASSERT_EQ(Encoder().Encode(sound), Contents(Write(sound.header, sound.rows, sound.gaps)));
  std::vector<Bound> bounds = HeaderBounds();
  for (const std::vector<Bound>& more : {RowBounds(), GapBounds()}) {
    bounds.insert(bounds.end(), more.begin(), more.end());
  }
  for (const Bound& bound : bounds) {
    SCOPED_TRACE(bound.name);
    File within = sound;
    bound.within(&within);
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directory(folder_);
    const std::string path = Write(within.header, within.rows, within.gaps);
    ASSERT_FALSE(path.empty());
    EXPECT_EQ(Contents(path), Encoder().Encode(within));
    std::vector<TrafficRow> rows;
    std::vector<Gap> gaps;
    const absl::Status accepted = ReadBytes(Contents(path), &rows, &gaps);
    EXPECT_TRUE(accepted.ok()) << accepted;
    EXPECT_EQ(rows, within.rows);
    EXPECT_EQ(gaps, within.gaps);
    EXPECT_EQ(SpoolReader::Open(path)->header(), within.header);

    File beyond = sound;
    bound.beyond(&beyond);
    const absl::Status refused = ReadBytes(Encoder().Encode(beyond));
    EXPECT_TRUE(absl::IsDataLoss(refused)) << refused;
    EXPECT_THAT(std::string(refused.message()),
                HasSubstr(absl::StrCat("FILE: corrupt at byte ", bound.byte, ": ")));
    EXPECT_THAT(std::string(refused.message()), HasSubstr(bound.why));
    beyond.header.sequence += beyond.header.sequence == within.header.sequence ? 1 : 0;
    const absl::Status written =
        WriteSpoolFile(folder_, beyond.header, beyond.rows, beyond.gaps).status();
    EXPECT_TRUE(absl::IsInvalidArgument(written)) << written;
    EXPECT_THAT(std::string(written.message()), HasSubstr(bound.why));
  }
  SpoolHeader header = MakeHeader();
  header.gateway = std::string(256, 'g');
  EXPECT_TRUE(absl::IsInvalidArgument(WriteSpoolFile(folder_, header, {}).status()));
  // Behind the name.
  std::string wrong = Encoder().Encode({MakeHeader(), {}, {}});
  wrong[offsetof(spool_format::Header, gateway) + MakeHeader().gateway.size()] = 'x';
  EXPECT_TRUE(absl::IsDataLoss(ReadBytes(Resealed(wrong, {sizeof(spool_format::Header)}))));
}

// From outside: each row is possible, but not all of them in one interval.
TEST_F(SpoolTest, ManyLargeRowsAreTooMuchForOneFile) {
  File file;
  file.header = MakeHeader();
  TrafficRow row;
  row.time_ns = file.header.interval_end_ns;
  row.bytes_src = uint64_t{1} << 50;
  file.rows.assign(4096, row);
  const std::string why = "the rows' bytes_src add up to more than 9007199254740992";
  const absl::Status read = ReadBytes(Encoder().Encode(file));
  EXPECT_TRUE(absl::IsDataLoss(read)) << read;
  EXPECT_THAT(std::string(read.message()), HasSubstr(why));
  file.rows.assign(8191, row);
  const absl::Status written = WriteSpoolFile(folder_, file.header, file.rows).status();
  EXPECT_TRUE(absl::IsInvalidArgument(written)) << written;
  EXPECT_THAT(std::string(written.message()), HasSubstr(absl::StrCat("row 8: ", why)));
}

// Rows of zeros are holes of a memory file: 720 MB take no room.
TEST_F(SpoolTest, TheNumberOfRowsHasABound) {
  using spool_format::BlockHeader;
  constexpr uint64_t kRows = 10'000'000;
  for (const uint64_t rows : {kRows, kRows + 1}) {
    const UniqueFd fd(memfd_create("spool", MFD_CLOEXEC));
    const std::string header = Encoder().Encode({MakeHeader(), {}, {}});
    const std::string head = header.substr(0, sizeof(spool_format::Header));
    off_t at = 0;
    XXH3_state_t* const hash = XXH3_createState();
    XXH3_64bits_reset(hash);
    const auto put = [&](const void* bytes, size_t size) {
      ASSERT_EQ(pwrite(fd.get(), bytes, size, at), static_cast<ssize_t>(size));
      at += static_cast<off_t>(size);
    };
    put(head.data(), head.size());
    XXH3_64bits_update(hash, head.data(), head.size());
    std::string block;
    uint64_t checksum = 0;
    for (uint64_t left = rows; left > 0;) {
      const BlockHeader block_header = {spool_format::kRowBlock, 4, sizeof(spool_format::Ipv4Row),
                                        static_cast<uint32_t>(std::min<uint64_t>(left, 4096))};
      left -= block_header.row_count;
      const size_t size =
          sizeof(BlockHeader) + block_header.row_count * sizeof(spool_format::Ipv4Row);
      if (block.size() != size) {
        block.assign(size, '\0');
        std::memcpy(block.data(), &block_header, sizeof(block_header));
        checksum = XXH3_64bits(block.data(), block.size());
      }
      XXH3_64bits_update(hash, block.data(), block.size());
      XXH3_64bits_update(hash, &checksum, sizeof(checksum));
      put(&block_header, sizeof(block_header));
      at += static_cast<off_t>(block.size() - sizeof(block_header));
      put(&checksum, sizeof(checksum));
    }
    spool_format::End end;
    end.row_count = rows;
    end.file_checksum = XXH3_64bits_digest(hash);
    XXH3_freeState(hash);
    const BlockHeader end_header = {spool_format::kEndBlock, 0, sizeof(end), 1};
    block.assign(reinterpret_cast<const char*>(&end_header), sizeof(end_header));
    block.append(reinterpret_cast<const char*>(&end), sizeof(end));
    checksum = XXH3_64bits(block.data(), block.size());
    put(block.data(), block.size());
    put(&checksum, sizeof(checksum));
    absl::StatusOr<SpoolReader> reader = SpoolReader::FromFd(fd.get(), "FILE");
    ASSERT_TRUE(reader.ok()) << reader.status();
    std::vector<TrafficRow> read;
    absl::StatusOr<bool> more = true;
    while (more.ok() && *more) more = reader->ReadBlock(&read);
    if (rows == kRows) {
      EXPECT_TRUE(more.ok()) << more.status();
      EXPECT_EQ(reader->totals().row_count, rows);
    } else {
      EXPECT_TRUE(absl::IsDataLoss(more.status())) << more.status();
      EXPECT_THAT(std::string(more.status().message()), HasSubstr("more than 10000000 rows"));
    }
  }
  // The writer asks before it looks at any row.
  constexpr size_t kBytes = (kRows + 1) * sizeof(TrafficRow);
  void* const unreadable =
      mmap(nullptr, kBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  ASSERT_NE(unreadable, MAP_FAILED);
  const absl::Status written =
      WriteSpoolFile(folder_, MakeHeader(),
                     absl::MakeSpan(static_cast<const TrafficRow*>(unreadable), kRows + 1))
          .status();
  EXPECT_TRUE(absl::IsInvalidArgument(written)) << written;
  munmap(unreadable, kBytes);
}

TEST_F(SpoolTest, MissingFolderIsNamed) {
  const absl::Status status =
      WriteSpoolFile(folder_ + "/none", MakeHeader(), {MakeRow(1)}).status();
  EXPECT_TRUE(absl::IsNotFound(status));
  EXPECT_THAT(std::string(status.message()), HasSubstr(folder_ + "/none"));
}

TEST_F(SpoolTest, EveryFlippedBitIsCorruption) {
  const std::string sound =
      Contents(Write(MakeHeader(), {MakeRow(1), MakeRow(2, AddressFamily::kIpv6)}, {MakeGap(1)}));
  ASSERT_TRUE(ReadBytes(sound).ok());
  for (size_t bit = 0; bit < sound.size() * 8; ++bit) {
    std::string bytes = sound;
    bytes[bit / 8] = static_cast<char>(bytes[bit / 8] ^ (1 << (bit % 8)));
    const absl::Status status = ReadBytes(bytes);
    ASSERT_TRUE(absl::IsDataLoss(status)) << "bit " << bit << ": " << status;
    ASSERT_THAT(std::string(status.message()), HasSubstr("FILE: "));
    ASSERT_THAT(std::string(status.message()), HasSubstr(" at byte "));
  }
}

TEST_F(SpoolTest, EveryTruncationIsATornFile) {
  const std::string sound =
      Contents(Write(MakeHeader(), {MakeRow(1), MakeRow(2, AddressFamily::kIpv6)}, {MakeGap(1)}));
  for (size_t size = 0; size < sound.size(); ++size) {
    const absl::Status status = ReadBytes(sound.substr(0, size));
    ASSERT_TRUE(absl::IsDataLoss(status)) << size << ": " << status;
    ASSERT_EQ(std::string(status.message()),
              absl::StrCat("FILE: torn: ends at byte ", size, ", before its end block"));
  }
}

TEST_F(SpoolTest, BytesAfterTheEndAreCorruption) {
  const std::string sound = Contents(Write(MakeHeader(), {MakeRow(1)}));
  const absl::Status status = ReadBytes(sound + sound);
  EXPECT_TRUE(absl::IsDataLoss(status));
  EXPECT_THAT(std::string(status.message()),
              HasSubstr(absl::StrCat("corrupt at byte ", sound.size())));
}

TEST_F(SpoolTest, DroppedOrRepeatedBlocksAreCorruption) {
  std::vector<TrafficRow> rows;
  for (uint64_t i = 0; i < 2 * spool_format::kBlockRowsMax; ++i) rows.push_back(MakeRow(i));
  const std::string sound = Contents(Write(MakeHeader(), rows));
  const size_t block = 8 + size_t{spool_format::kBlockRowsMax} * 72 + 8;
  const size_t header = sizeof(spool_format::Header);
  std::string dropped = sound;
  dropped.erase(header, block);
  EXPECT_TRUE(absl::IsDataLoss(ReadBytes(dropped)));
  std::string repeated = sound;
  repeated.insert(header, sound.substr(header, block));
  EXPECT_TRUE(absl::IsDataLoss(ReadBytes(repeated)));
  const std::string swapped = sound.substr(0, header) + sound.substr(header + block, block) +
                              sound.substr(header, block) + sound.substr(header + 2 * block);
  ASSERT_EQ(swapped.size(), sound.size());
  EXPECT_TRUE(absl::IsDataLoss(ReadBytes(swapped)));
}

TEST_F(SpoolTest, RandomRubbishIsRejected) {
  std::mt19937_64 random(1);
  const std::string sound = Contents(Write(MakeHeader(), {MakeRow(1)}));
  for (int round = 0; round < 20'000; ++round) {
    std::string bytes = sound.substr(0, random() % (sound.size() + 1));
    for (uint64_t i = random() % 200; i > 0; --i) bytes.push_back(static_cast<char>(random()));
    if (bytes == sound) continue;
    ASSERT_TRUE(absl::IsDataLoss(ReadBytes(bytes)));
  }
}

// Checksums detect damage, not malice: values are checked even if the checksum is right.
TEST_F(SpoolTest, NonsenseIsCorruptionEvenIfTheChecksumsHold) {
  const std::string sound = Contents(Write(MakeHeader(), {MakeRow(1)}));
  constexpr size_t kBlock = sizeof(spool_format::Header);
  constexpr size_t kRow = kBlock + sizeof(spool_format::BlockHeader);
  constexpr size_t kEnd = kRow + sizeof(spool_format::Ipv4Row) + spool_format::kChecksumBytes;
  constexpr size_t kTotals = kEnd + sizeof(spool_format::BlockHeader);
  struct Case {
    size_t offset;
    uint8_t value;
    const char* why;
  };
  for (const Case& nonsense : std::vector<Case>{
           {offsetof(spool_format::Header, version), 0, "no such version"},
           {offsetof(spool_format::Header, completeness), 99, "completeness is unknown"},
           {offsetof(spool_format::Header, flags), 0x84, "the header has unknown flags"},
           {kBlock + offsetof(spool_format::BlockHeader, type), spool_format::kGapBlock,
            "impossible gap block"},
           {kBlock + offsetof(spool_format::BlockHeader, address_family), 7,
            "impossible row block"},
           {kRow + offsetof(spool_format::Ipv4Row, reserved), 1,
            "a row's reserved bytes are not zero"},
           {kRow + offsetof(spool_format::Ipv4Row, port) + 3, 0x7f, "a row's port is out of range"},
           {kRow + offsetof(spool_format::Ipv4Row, packets_src), 0xee, "do not add up"},
           {kEnd + offsetof(spool_format::BlockHeader, address_family), 2, "impossible end block"},
           {kTotals + offsetof(spool_format::End, row_count), 2, "do not add up"},
       }) {
    std::string bytes = sound;
    bytes[nonsense.offset] = static_cast<char>(nonsense.value);
    const auto seal = [&](size_t begin, size_t end) {
      const uint64_t checksum = XXH3_64bits(bytes.data() + begin, end - begin);
      std::memcpy(bytes.data() + end, &checksum, sizeof(checksum));
    };
    seal(0, offsetof(spool_format::Header, checksum));
    seal(kBlock, kEnd - spool_format::kChecksumBytes);
    const uint64_t file_checksum = XXH3_64bits(bytes.data(), kEnd);
    std::memcpy(bytes.data() + kTotals + offsetof(spool_format::End, file_checksum), &file_checksum,
                sizeof(file_checksum));
    seal(kEnd, kTotals + sizeof(spool_format::End));
    const absl::Status status = ReadBytes(bytes);
    EXPECT_TRUE(absl::IsDataLoss(status)) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(nonsense.why)) << nonsense.offset;
  }
}

// Whatever a later version looks like behind its first 16 bytes.
TEST_F(SpoolTest, NewerVersionIsNotCorruption) {
  for (const uint32_t header_bytes : {24u, 408u, 4096u}) {
    std::string bytes(header_bytes, '\x5a');
    std::memcpy(bytes.data(), spool_format::kMagic, sizeof(spool_format::kMagic));
    const uint32_t version = spool_format::kVersion + 1;
    std::memcpy(bytes.data() + 8, &version, sizeof(version));
    std::memcpy(bytes.data() + 12, &header_bytes, sizeof(header_bytes));
    const uint64_t checksum = XXH3_64bits(bytes.data(), bytes.size() - 8);
    std::memcpy(bytes.data() + bytes.size() - 8, &checksum, sizeof(checksum));
    const absl::Status status = ReadBytes(bytes + "whatever");
    EXPECT_TRUE(absl::IsUnimplemented(status)) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("FILE: of version 4"));
    bytes[bytes.size() - 1] ^= 1;
    EXPECT_TRUE(absl::IsDataLoss(ReadBytes(bytes)));
  }
}

TEST_F(SpoolTest, OpensRegularFilesOnly) {
  const std::string path = Write(MakeHeader(), {MakeRow(1)});
  ASSERT_EQ(symlink(path.c_str(), (folder_ + "/link").c_str()), 0);
  ASSERT_EQ(mkfifo((folder_ + "/fifo").c_str(), 0600), 0);
  EXPECT_TRUE(absl::IsFailedPrecondition(SpoolReader::Open(folder_ + "/link").status()));
  EXPECT_TRUE(absl::IsFailedPrecondition(SpoolReader::Open(folder_ + "/fifo").status()));
  EXPECT_TRUE(absl::IsFailedPrecondition(SpoolReader::Open(folder_).status()));
  EXPECT_TRUE(absl::IsNotFound(SpoolReader::Open(folder_ + "/none").status()));
  EXPECT_TRUE(SpoolReader::Open(path).ok());
}

TEST(EngineIdTest, IsAUuidOfVersion7AndSortsByTime) {
  const absl::StatusOr<EngineId> first = NewEngineId();
  const absl::StatusOr<EngineId> second = NewEngineId();
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_NE(*first, *second);
  EXPECT_EQ((*first)[6] >> 4, 7);
  EXPECT_EQ((*first)[8] >> 6, 2);
  const std::string text = EngineIdText(*first);
  EXPECT_EQ(text.size(), 36u);
  EXPECT_EQ(text[14], '7');
  // The first eight digits are 2^16 ms wide: the runs of one test share them, or nearly.
  EXPECT_LE(text.substr(0, 8), EngineIdText(*second).substr(0, 8));
}

}  // namespace
}  // namespace ctacct
