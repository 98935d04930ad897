// A program that the doctor runs and watches. It is killed, with all that it started, in the
// destructor, or when the thread that started it ends. Thread-compatible.
#ifndef CTACCT_IMPORTER_DOCTOR_CHILD_H_
#define CTACCT_IMPORTER_DOCTOR_CHILD_H_

#include <sys/types.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/system/unique_fd.h"

namespace ctacct {

class Child {
 public:
  // Unless it holds a slash, argv[0] is looked for in the system's folders, whatever PATH says. Of
  // the environment the program gets nothing. Standard input is empty.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<Child>> Start(
      const std::vector<std::string>& argv);
  // A copy of this process runs `work`, which must not need anything that other threads hold, and
  // ends with the status that it returns.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<Child>> Fork(absl::FunctionRef<int()> work);

  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  ~Child();

  // The exit status, 128 + N if signal N has ended it; nothing while it runs.
  [[nodiscard]] std::optional<int> Wait(absl::Duration at_most);
  void Signal(int signal_number) const;

  [[nodiscard]] std::string Output() const;  // On standard output.
  [[nodiscard]] std::string Errors() const;
  // The last line of Errors(), without the "PROGRAM: " in front.
  [[nodiscard]] std::string LastError() const;

 private:
  Child() = default;

  pid_t pid_ = -1;
  std::optional<int> ended_;
  UniqueFd output_;
  UniqueFd errors_;
};

}  // namespace ctacct

#endif  // CTACCT_IMPORTER_DOCTOR_CHILD_H_
