#include "bench/flushing.h"

#include <stdlib.h>
#include <unistd.h>

#include <filesystem>
#include <iostream>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "engine/spool/engine_id.h"
#include "engine/spool/spool_reader.h"
#include "engine/system/command_line.h"

namespace ctacct {

SpoolHeader BenchHeader() {
  SpoolHeader header;
  header.engine_id = NewEngineId().value();
  header.interval_length_ns = kSecond;
  header.gateway = "bench";
  return header;
}

FlusherThread::FlusherThread(Flusher::Options options, AccountingHandoff* handoff)
    : flusher_(std::move(options)), handoff_(handoff), thread_([this] { Run(); }) {}

void FlusherThread::Run() {
  PinTo(1);
  while (!done_.load()) {
    const auto start = Clock::now();
    const double cpu_start_ms = ThreadCpuMillis();
    flushing_.store(true);
    const absl::Status status = flusher_.Flush({handoff_}, true);
    flushing_.store(false);
    cpu_ms_ += ThreadCpuMillis() - cpu_start_ms;
    if (!status.ok()) PrintError("flusher", status);
    if (flusher_.intervals_written() != written_) {
      if (written_++ == 0) {
        cpu_ms_ = 0;
      } else {
        const Clock::time_point sealed_at{Clock::duration(sealed_at_.load())};
        longest_until_written_ms = std::max(longest_until_written_ms, MillisSince(sealed_at));
      }
      longest_flush_ms = std::max(longest_flush_ms, MillisSince(start));
    }
    ++rounds_;
    usleep(200);
  }
}

void FlusherThread::Wait() const {
  // The round that runs may have begun before the seal.
  for (const uint64_t begun = rounds_.load(); rounds_.load() < begun + 2;) usleep(200);
}

void FlusherThread::Stop() {
  done_.store(true);
  if (thread_.joinable()) thread_.join();
}

double FlusherThread::cpu_ms_per_interval() const {
  return written_ > 1 ? cpu_ms_ / static_cast<double>(written_ - 1) : 0;
}

absl::Status CheckPackets(const std::string& folder, uint64_t expected) {
  uint64_t packets = 0;
  std::vector<TrafficRow> block;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (!entry.is_regular_file()) continue;
    absl::StatusOr<SpoolReader> reader = SpoolReader::Open(entry.path());
    if (!reader.ok()) return reader.status();
    for (;;) {
      const absl::StatusOr<bool> more = reader->ReadBlock(&block);
      if (!more.ok()) return more.status();
      if (!*more) break;
      for (const TrafficRow& row : block) packets += row.packets_src;
    }
  }
  if (packets == expected) return absl::OkStatus();
  return absl::InternalError(
      absl::StrCat("wrong sums: ", packets, " packets in the rows, ", expected, " accounted"));
}

int RunInFolder(int argc, char** argv, const char* program,
                const std::function<std::string()>& parent,
                const std::function<absl::Status(const std::string& folder)>& run) {
  const absl::StatusOr<CommandLine> line = ParseCommandLine(argc, argv);
  if (!line.ok()) {
    PrintError(program, line.status());
    return kExitUsageError;
  }
  if (line->help) {
    std::cout << FlagsHelp(absl::StrCat("usage: ", program, " [FLAGS]"));
    return kExitOk;
  }
  std::string folder = absl::StrCat(parent(), "/", program, ".XXXXXX");
  if (mkdtemp(folder.data()) == nullptr) {
    PrintError(program, absl::UnavailableError(folder + ": cannot be made"));
    return kExitOperatingError;
  }
  const absl::Status status = run(folder);
  std::filesystem::remove_all(folder);
  if (status.ok()) return kExitOk;
  PrintError(program, status);
  return kExitOperatingError;
}

}  // namespace ctacct
