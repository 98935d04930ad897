#include "netlink/capture_file.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <array>
#include <limits>

#include "absl/strings/str_cat.h"

namespace ctacct {
namespace {

constexpr int kLinkTypeNetlink = 253;  // LINKTYPE_NETLINK, www.tcpdump.org/linktypes.html.
constexpr size_t kCaptureHeaderBytes = 16;
constexpr std::array<uint8_t, kCaptureHeaderBytes> kCaptureHeader = {
    0x00, 0x04, 0x03, 0x38, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x00, NETLINK_NETFILTER};
constexpr int kSnapLengthBytes = 262144;  // libpcap's own maximum; a dump's datagram has 32 KiB.
constexpr int64_t kNanosPerSecond = 1'000'000'000;
constexpr int64_t kSecondsMax = std::numeric_limits<uint32_t>::max();  // As a pcap file holds.

}  // namespace

absl::StatusOr<std::unique_ptr<CaptureReader>> CaptureReader::Open(const std::string& path) {
  FILE* file = fopen(path.c_str(), "rbe");
  if (file == nullptr) {
    return absl::ErrnoToStatus(errno, absl::StrCat("capture ", path));
  }
  char why[PCAP_ERRBUF_SIZE] = "";
  pcap_t* pcap = pcap_fopen_offline_with_tstamp_precision(file, PCAP_TSTAMP_PRECISION_NANO, why);
  if (pcap == nullptr) {
    fclose(file);
    return absl::InvalidArgumentError(absl::StrCat("capture ", path, ": ", why));
  }
  auto reader = std::unique_ptr<CaptureReader>(new CaptureReader(path, pcap));
  if (pcap_datalink(pcap) != kLinkTypeNetlink) {
    return absl::InvalidArgumentError(
        absl::StrCat("capture ", path, ": link type ", pcap_datalink(pcap), ", not 253 (netlink)"));
  }
  return reader;
}

absl::StatusOr<bool> CaptureReader::Next(CapturedDatagram* datagram) {
  for (;;) {
    pcap_pkthdr* header = nullptr;
    const u_char* data = nullptr;
    const int result = pcap_next_ex(pcap_.get(), &header, &data);
    if (result == PCAP_ERROR_BREAK) return false;
    if (result != 1) {
      return absl::DataLossError(absl::StrCat("capture ", path_, ": after packet ", packets_, ": ",
                                              pcap_geterr(pcap_.get())));
    }
    // pcapng can hold times before 1970, and times too large for nanoseconds in 64 bits.
    if (header->ts.tv_sec < 0 || header->ts.tv_sec > kSecondsMax || header->ts.tv_usec < 0 ||
        header->ts.tv_usec >= kNanosPerSecond) {
      return absl::DataLossError(
          absl::StrCat("capture ", path_, ": after packet ", packets_, ": impossible time"));
    }
    ++packets_;
    if (header->caplen < kCaptureHeaderBytes ||
        memcmp(data + 2, kCaptureHeader.data() + 2, 2) != 0 ||
        memcmp(data + 14, kCaptureHeader.data() + 14, 2) != 0) {
      continue;
    }
    datagram->data = data + kCaptureHeaderBytes;
    datagram->bytes = header->caplen - kCaptureHeaderBytes;
    // With nanosecond precision asked for, libpcap puts nanoseconds into tv_usec, whatever the
    // file's magic.
    datagram->time_ns = header->ts.tv_sec * kNanosPerSecond + header->ts.tv_usec;
    return true;
  }
}

CaptureWriter::CaptureWriter(std::string path, pcap_t* pcap, pcap_dumper_t* dumper)
    : path_(std::move(path)), pcap_(pcap), dumper_(dumper) {
  packet_.assign(reinterpret_cast<const char*>(kCaptureHeader.data()), kCaptureHeader.size());
}

absl::StatusOr<std::unique_ptr<CaptureWriter>> CaptureWriter::Create(const std::string& path) {
  const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
  FILE* file = fd < 0 ? nullptr : fdopen(fd, "wb");
  if (file == nullptr) {
    const int error = errno;
    if (fd >= 0) close(fd);
    return absl::ErrnoToStatus(error, absl::StrCat("capture ", path));
  }
  pcap_t* pcap = pcap_open_dead_with_tstamp_precision(kLinkTypeNetlink, kSnapLengthBytes,
                                                      PCAP_TSTAMP_PRECISION_NANO);
  pcap_dumper_t* dumper = pcap == nullptr ? nullptr : pcap_dump_fopen(pcap, file);
  if (dumper == nullptr) {
    const std::string why = pcap == nullptr ? "out of memory" : pcap_geterr(pcap);
    if (pcap != nullptr) pcap_close(pcap);
    fclose(file);
    return absl::UnavailableError(absl::StrCat("capture ", path, ": ", why));
  }
  return std::unique_ptr<CaptureWriter>(new CaptureWriter(path, pcap, dumper));
}

CaptureWriter::~CaptureWriter() {
  pcap_dump_close(dumper_);
  pcap_close(pcap_);
}

void CaptureWriter::Write(const uint8_t* data, size_t bytes, int64_t time_ns) {
  if (error_ != 0) return;
  packet_.resize(kCaptureHeaderBytes);
  packet_.append(reinterpret_cast<const char*>(data), bytes);
  pcap_pkthdr header{};
  header.ts.tv_sec = time_ns / kNanosPerSecond;
  header.ts.tv_usec = time_ns % kNanosPerSecond;
  header.caplen = header.len = static_cast<bpf_u_int32>(packet_.size());
  pcap_dump(reinterpret_cast<u_char*>(dumper_), &header,
            reinterpret_cast<const u_char*>(packet_.data()));
  if (ferror(pcap_dump_file(dumper_)) != 0) error_ = errno;
}

absl::Status CaptureWriter::Flush() {
  if (error_ == 0 && pcap_dump_flush(dumper_) != 0) error_ = errno;
  return status();
}

absl::Status CaptureWriter::status() const {
  if (error_ == 0) return absl::OkStatus();
  return absl::UnavailableError(
      absl::StrCat("capture ", path_, ": cannot be written: ", strerror(error_)));
}

}  // namespace ctacct
