// Files and folders of tests. What cannot be read or written fails the test, with the path.
#ifndef CTACCT_TESTS_SUPPORT_FILES_H_
#define CTACCT_TESTS_SUPPORT_FILES_H_

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace ctacct {

// A new folder /tmp/ctacct-NAME.XXXXXX, removed with all it holds in the destructor. Below /tmp
// because the path of a Unix socket has at most 107 bytes and Bazel's own folders are long.
// CTACCT_KEEP=1 in the environment keeps the folder and prints its path.
class TestFolder {
 public:
  explicit TestFolder(const std::string& name);
  ~TestFolder();

  TestFolder(const TestFolder&) = delete;
  TestFolder& operator=(const TestFolder&) = delete;

  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

[[nodiscard]] std::string ReadFile(const std::string& path);
void WriteFile(const std::string& path, std::string_view text);

// Names in `folder`, sorted; none if there is no such folder.
[[nodiscard]] std::vector<std::string> NamesIn(const std::string& folder);
// Without those that begin with a dot, which are the engine's own.
[[nodiscard]] std::vector<std::string> VisibleNamesIn(const std::string& folder);
// The same files by their paths.
[[nodiscard]] std::vector<std::string> VisibleFilesIn(const std::string& folder);

// How many lines end in `text`.
[[nodiscard]] size_t CountLines(std::string_view text);

}  // namespace ctacct

#endif  // CTACCT_TESTS_SUPPORT_FILES_H_
