#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "engine/rows/gap.h"
#include "engine/rows/gateway_name.h"
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
    row.packets_src = random();
    row.packets_dst = random();
    row.bytes_src = random();
    row.bytes_dst = random();
    row.connection_time_ms = random();
    row.connection_count = static_cast<uint32_t>(random());
    row.open_connections = static_cast<uint32_t>(random());
    row.flow_count = static_cast<uint32_t>(random());
    row.unanswered_count = static_cast<uint32_t>(random());
    return row;
  }

  static Gap MakeGap(uint64_t seed) {
    std::mt19937_64 random(seed);
    Gap gap;
    gap.began_ns = MakeHeader().interval_end_ns - static_cast<int64_t>(random() % (1u << 30));
    gap.ended_ns = gap.began_ns + static_cast<int64_t>(random() % (1u << 30));
    gap.cause = static_cast<GapCause>(1 + random() % kGapCauses);
    gap.completeness = random() % 2 == 0 ? Completeness::kResynced : Completeness::kPartial;
    gap.events_dropped = random();
    gap.flows_lost = random();
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

// A document that shows other bytes than the writer makes is worse than none.
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
  row = MakeRow(1);
  for (uint64_t TrafficRow::*count : {&TrafficRow::connection_count, &TrafficRow::open_connections,
                                      &TrafficRow::flow_count, &TrafficRow::unanswered_count}) {
    row = MakeRow(1);
    row.*count = uint64_t{1} << 32;
    EXPECT_TRUE(absl::IsInvalidArgument(write(MakeHeader(), row)));
  }
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

// What a header may not be: the writer refuses to write it, and the reader to read it.
TEST_F(SpoolTest, EveryFieldOfAHeaderHasItsBounds) {
  constexpr int64_t kSecond = 1'000'000'000;
  constexpr int64_t kEnd = 7'258'118'400 * kSecond;  // 2200-01-01.
  struct Bounds {
    int64_t SpoolHeader::*field;
    size_t offset;
    int64_t least;
    int64_t most;
    const char* why;
  };
  SpoolHeader sound = MakeHeader();
  sound.covered_from_ns = 0;
  sound.covered_to_ns = kEnd - 1;
  const std::string bytes = Contents(Write(sound, {}));
  const auto expect_bad = [&](const SpoolHeader& header, size_t offset, const void* value,
                              size_t size, const std::string& why) {
    const absl::Status written = WriteSpoolFile(folder_, header, {}).status();
    EXPECT_TRUE(absl::IsInvalidArgument(written)) << why << ": " << written;
    EXPECT_THAT(std::string(written.message()), HasSubstr(why));
    std::string wrong = bytes;
    std::memcpy(wrong.data() + offset, value, size);
    const absl::Status read = ReadBytes(Resealed(wrong, {sizeof(spool_format::Header)}));
    EXPECT_TRUE(absl::IsDataLoss(read)) << why << ": " << read;
    EXPECT_THAT(std::string(read.message()), HasSubstr(why));
  };
  for (const Bounds& bounds : std::vector<Bounds>{
           {&SpoolHeader::interval_end_ns, offsetof(spool_format::Header, interval_end_ns), 0,
            kEnd - 1, "the interval ends"},
           {&SpoolHeader::interval_length_ns, offsetof(spool_format::Header, interval_length_ns),
            kSecond, 86'400 * kSecond, "the interval's length"},
           {&SpoolHeader::created_ns, offsetof(spool_format::Header, created_ns), 0, kEnd - 1,
            "it was created"},
           {&SpoolHeader::covered_from_ns, offsetof(spool_format::Header, covered_from_ns), 0,
            kEnd - 1, "the covered time is"},
           {&SpoolHeader::covered_to_ns, offsetof(spool_format::Header, covered_to_ns), 0, kEnd - 1,
            "the covered time is"},
       }) {
    for (const int64_t good : {bounds.least, bounds.most}) {
      SpoolHeader header = sound;
      header.*bounds.field = good;
      std::filesystem::remove_all(folder_);
      std::filesystem::create_directory(folder_);
      SpoolHeader read_back = header;
      EXPECT_EQ(SpoolReader::Open(Write(header, {}))->header(), read_back) << bounds.why;
    }
    for (const int64_t bad :
         {bounds.least - 1, bounds.most + 1, int64_t{-1}, std::numeric_limits<int64_t>::min(),
          std::numeric_limits<int64_t>::max()}) {
      SpoolHeader header = sound;
      header.*bounds.field = bad;
      expect_bad(header, bounds.offset, &bad, sizeof(bad), bounds.why);
    }
  }
  SpoolHeader header = sound;
  header.covered_from_ns = 5;
  header.covered_to_ns = 4;
  constexpr size_t kCovered = offsetof(spool_format::Header, covered_from_ns);
  const int64_t backwards[] = {5, 4};
  expect_bad(header, kCovered, backwards, sizeof(backwards),
             "the covered time ends before it began");
  for (const uint64_t sequence : {uint64_t{0}, uint64_t{1} << 63}) {
    header = sound;
    header.sequence = sequence;
    expect_bad(header, offsetof(spool_format::Header, sequence), &sequence, sizeof(sequence),
               "the sequence is");
  }
  header = sound;
  header.events_dropped = uint64_t{1} << 63;
  expect_bad(header, offsetof(spool_format::Header, events_dropped), &header.events_dropped,
             sizeof(header.events_dropped), "dropped events");
  header = sound;
  header.gateway = "gw\n.example";  // As long as before.
  expect_bad(header, offsetof(spool_format::Header, gateway), header.gateway.data(),
             header.gateway.size(), "the gateway's name");
  header.gateway = std::string(256, 'g');
  EXPECT_TRUE(absl::IsInvalidArgument(WriteSpoolFile(folder_, header, {}).status()));
  header.gateway = std::string("a\0b", 3);
  EXPECT_TRUE(absl::IsInvalidArgument(WriteSpoolFile(folder_, header, {}).status()));
  // Behind the name.
  std::string wrong = bytes;
  wrong[offsetof(spool_format::Header, gateway) + sound.gateway.size()] = 'x';
  EXPECT_TRUE(absl::IsDataLoss(ReadBytes(Resealed(wrong, {sizeof(spool_format::Header)}))));
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

// Checksums tell damage, not malice: what they hold for is still looked at.
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
           {offsetof(spool_format::Header, flags), 0x84, "unknown flags"},
           {kBlock + offsetof(spool_format::BlockHeader, type), spool_format::kGapBlock,
            "impossible gap block"},
           {kBlock + offsetof(spool_format::BlockHeader, address_family), 7,
            "impossible row block"},
           {kRow + offsetof(spool_format::Ipv4Row, reserved), 1, "a field of a row"},
           {kRow + offsetof(spool_format::Ipv4Row, port) + 3, 0x7f, "a field of a row"},
           {kRow + offsetof(spool_format::Ipv4Row, packets_src) + 7, 0xee, "do not add up"},
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
TEST_F(SpoolTest, NewerVersionIsToldFromCorruption) {
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

TEST(GatewayNameTest, IsUtf8WithoutControlCharacters) {
  const std::string good[] = {"",
                              "gw1",
                              "gw's \"one\"",
                              "G\u00fcrtel-\u20ac-\U0001f300",
                              std::string(255, 'g'),
                              "\xf4\x8f\xbf\xbf"};
  for (const std::string& name : good) EXPECT_TRUE(CheckGatewayName(name).ok()) << name;
  const std::string bad[] = {std::string(256, 'g'),
                             std::string("a\0b", 3),
                             "a\nb",
                             "a\x7f",
                             "\xfc",
                             "\xc0\x80",
                             "\xe0\x80\x80",
                             "\xed\xa0\x80",
                             "\xf4\x90\x80\x80",
                             "\xc3",
                             "\xe2\x82",
                             "\x80"};
  for (const std::string& name : bad) {
    EXPECT_TRUE(absl::IsInvalidArgument(CheckGatewayName(name))) << name;
  }
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
