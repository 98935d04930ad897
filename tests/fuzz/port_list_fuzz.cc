// Any bytes as a port list.
#include <cstddef>
#include <cstdint>
#include <string>

#include "engine/accounting/port_list.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t bytes) {
  (void)ctacct::PortList::Parse(std::string(reinterpret_cast<const char*>(data), bytes), "fuzz");
  return 0;
}
