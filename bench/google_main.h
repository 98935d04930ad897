// The main function of the benchmarks that use Google Benchmark.
#ifndef CTACCT_BENCH_GOOGLE_MAIN_H_
#define CTACCT_BENCH_GOOGLE_MAIN_H_

#include <benchmark/benchmark.h>

#include <functional>

#include "absl/status/status.h"

namespace ctacct {

// Reports a wrong result: the benchmark has no figures, and the program exits with status 1.
void Fail(benchmark::State& state, const char* why);

// Parses both kinds of flags, calls `prepare` and runs the benchmarks. Returns the exit status.
int GoogleMain(int argc, char** argv, const char* program,
               const std::function<absl::Status()>& prepare = absl::OkStatus);

}  // namespace ctacct

#endif  // CTACCT_BENCH_GOOGLE_MAIN_H_
