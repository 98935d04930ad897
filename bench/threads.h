// What benchmarks with threads of their own share.
#ifndef CTACCT_BENCH_THREADS_H_
#define CTACCT_BENCH_THREADS_H_

#include <pthread.h>
#include <sched.h>
#include <time.h>

#include <cstddef>

namespace ctacct {

// Binds the calling thread to a CPU.
inline void PinTo(size_t cpu) {
  cpu_set_t cpus;
  CPU_ZERO(&cpus);
  CPU_SET(cpu, &cpus);
  pthread_setaffinity_np(pthread_self(), sizeof(cpus), &cpus);
}

// CPU time of the calling thread: what the machine gives to others is not in it.
inline double ThreadCpuMillis() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) * 1e3 + static_cast<double>(now.tv_nsec) / 1e6;
}

}  // namespace ctacct

#endif  // CTACCT_BENCH_THREADS_H_
