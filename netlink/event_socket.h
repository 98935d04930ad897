// A netlink socket that is subscribed to conntrack events, on libmnl.
//
// Thread-compatible: one thread owns it. It belongs to the network namespace of the thread that
// opened it. Needs CAP_NET_ADMIN to force the receive buffer (and for conntrack's groups).
//
// After an overrun (ENOBUFS) the kernel drops every event until the queue is empty, and says so
// only once: drain to the end, then dump the table. Drops() counts the lost ones; an ENOBUFS
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
    // For SO_RCVBUFFORCE, which makes twice as much of it; each queued event takes about 1,280
    // bytes of that.
    size_t receive_buffer_bytes = 0;
    // Subscribes to DESTROY alone, instead of NEW, UPDATE and DESTROY. The kernel does not even
    // build events that nobody has subscribed to.
    bool destroy_only = false;
    // See BuildEventFilter; empty: none. Events that it rejects count neither as queued nor as
    // dropped.
    std::vector<sock_filter> filter = {};
  };
  // Subscribes, with the filter in force from the first event on and for good.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<EventSocket>> Open(const Options& options);

  // Goes on with a socket that an earlier process opened with the same options; closes it if it is
  // not that: FailedPrecondition, unless it is of this network namespace, subscribed to the same
  // events and filtered, for good, by the same program. Its receive buffer stays as it was granted,
  // and what it has queued comes first.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<EventSocket>> Adopt(int fd,
                                                                          const Options& options);

  struct Batch {
    size_t datagrams = 0;  // at(0) ... at(datagrams - 1) are valid.
    bool drained = false;  // The queue was empty at the end of this batch.
    bool overrun = false;  // The kernel has dropped events since the last batch.
  };
  // Takes what waits, up to kBatchDatagrams; never blocks.
  [[nodiscard]] virtual absl::StatusOr<Batch> Receive();
  const Datagram& at(size_t i) const { return datagrams_[i]; }

  // Events the kernel has dropped since the socket was opened (SO_MEMINFO). A 32-bit counter of the
  // kernel.
  [[nodiscard]] virtual uint32_t Drops() const;
  // A number that lives as long as the socket, whoever has it: the drops that somebody was told of.
  // Zero at first. Needs CAP_NET_ADMIN; without it nothing is noted.
  [[nodiscard]] virtual uint32_t DropsTold() const;
  virtual void NoteDropsTold(uint32_t drops) const;
  // Reliable delivery, off at first: an event that finds no room is not lost. A DESTROY is sent
  // again until it is delivered (until then its flow stays in the table: see CountDyingFlows), the
  // others with their flow's next packet; other listeners may get them twice. There is no ENOBUFS
  // then, and Drops() counts attempts. Whoever turns it off goes on with what Drops() said just
  // before, which is returned. Any thread.
  virtual uint32_t SetReliable(bool reliable) const;
  // What the kernel granted, in its own doubled count.
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
  // What the socket is not, of all that `options` ask for; empty: nothing.
  std::string Misfit(const Options& options) const;

  const std::unique_ptr<mnl_socket, Closer> socket_;
  std::vector<uint8_t> buffer_;
  std::vector<iovec> vectors_;
  std::vector<mmsghdr> headers_;
  std::vector<sockaddr_nl> senders_;
};

}  // namespace ctacct

#endif  // CTACCT_NETLINK_EVENT_SOCKET_H_
