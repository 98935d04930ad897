// A netlink socket that is subscribed to conntrack events, on libmnl.
//
// Thread-compatible: one thread owns it. It belongs to the network namespace of the thread that
// opened it. Needs CAP_NET_ADMIN to force the receive buffer (and for conntrack's groups).
//
// After an overrun (ENOBUFS) the kernel drops every event until the queue is empty, and reports it
// only once: drain the queue, then dump the table. Drops() counts the lost events; an ENOBUFS
// without drops is an allocation failure.
#ifndef CTACCT_NETLINK_EVENT_SOCKET_H_
#define CTACCT_NETLINK_EVENT_SOCKET_H_

#include <libmnl/libmnl.h>
#include <linux/filter.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace ctacct {

// One datagram as the kernel sent it. Valid until the next receive on its socket.
struct Datagram {
  const uint8_t* data = nullptr;
  size_t bytes = 0;
};

// Virtual, so that a test can stand in for the kernel.
class EventSocket {
 public:
  virtual ~EventSocket() = default;

  struct Options {
    // For SO_RCVBUFFORCE, which doubles it; each queued event takes about 1,280 bytes of the
    // double.
    size_t receive_buffer_bytes = 0;
    // Subscribes to DESTROY alone, instead of NEW, UPDATE and DESTROY. The kernel does not even
    // build events that nobody has subscribed to.
    bool destroy_only = false;
    // See BuildEventFilter; empty: no filter. Events that it rejects count neither as queued nor as
    // dropped.
    std::vector<sock_filter> filter = {};
  };
  // Subscribes. The filter applies from the first event on, and cannot be changed later.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<EventSocket>> Open(const Options& options);

  // Takes over a socket that an earlier process opened with the same options. FailedPrecondition,
  // and the socket is closed, unless it is of this network namespace, subscribed to the same
  // events, and has the same filter, locked. Its receive buffer keeps its size, and the events that
  // it has queued come first.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<EventSocket>> Adopt(int fd,
                                                                          const Options& options);

  struct Batch {
    size_t datagrams = 0;  // at(0) ... at(datagrams - 1) are valid.
    bool drained = false;  // The queue was empty at the end of this batch.
    bool overrun = false;  // The kernel dropped events since the last batch.
  };
  // Receives the datagrams in the queue, at most kBatchDatagrams; never blocks.
  [[nodiscard]] virtual absl::StatusOr<Batch> Receive();
  const Datagram& at(size_t i) const { return datagrams_[i]; }

  // Events that the kernel dropped since the socket was opened (SO_MEMINFO), in 32 bits.
  [[nodiscard]] virtual uint32_t Drops() const;
  // The drops that have been reported in a gap. The number stays with the socket, also when another
  // process takes the socket over; zero at first. Without CAP_NET_ADMIN it is not stored.
  [[nodiscard]] virtual uint32_t DropsReported() const;
  virtual void NoteDropsReported(uint32_t drops) const;
  // Reliable delivery, off at first: an event is not lost when the receive buffer is full. The
  // kernel sends a DESTROY again until it is delivered (until then its flow stays in the table: see
  // CountDyingFlows), and the others with their flow's next packet; other listeners may get them
  // twice. There is no ENOBUFS then, and Drops() counts attempts. Returns Drops() as it was just
  // before the change, for the caller to count real drops from. Any thread.
  virtual uint32_t SetReliable(bool reliable) const;
  // The size that the kernel granted, in its own doubled count.
  [[nodiscard]] virtual size_t ReceiveBufferBytes() const;
  virtual int fd() const { return mnl_socket_get_fd(socket_.get()); }

  static constexpr size_t kBatchDatagrams = 64;
  // An event has about 200 bytes; helpers, labels and security contexts add some hundreds.
  static constexpr size_t kDatagramBytesMax = 8192;

 protected:
  EventSocket() = default;
  std::vector<Datagram> datagrams_;  // The batch.

 private:
  struct Closer {
    void operator()(mnl_socket* socket) const { mnl_socket_close(socket); }
  };

  explicit EventSocket(mnl_socket* socket);

  absl::Status Attach(const std::vector<sock_filter>& filter);
  // How the socket differs from `options`; empty: not at all.
  std::string Difference(const Options& options) const;

  const std::unique_ptr<mnl_socket, Closer> socket_;
  std::vector<uint8_t> buffer_;
  std::vector<iovec> vectors_;
  std::vector<mmsghdr> headers_;
  std::vector<sockaddr_nl> senders_;
};

}  // namespace ctacct

#endif  // CTACCT_NETLINK_EVENT_SOCKET_H_
