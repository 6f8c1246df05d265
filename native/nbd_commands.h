// The kernel's NBD driver over generic netlink: one function per command of <linux/nbd-netlink.h>.
// Knows nothing of JavaScript; each may block for as long as the kernel does.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "failure.h"

namespace holdfast::nbd {

struct Configuration {
  /** -1: the first free one (connect only). */
  int32_t index = -1;
  /** 0 at reconfigure: stays as it is. */
  uint64_t sizeBytes = 0;
  uint64_t blockSizeBytes = 0;
  uint64_t serverFlags = 0;
  /** Connect only. */
  uint64_t timeoutSeconds = 0;
  uint64_t deadConnectionTimeoutSeconds = 0;
  std::string backendIdentifier = {};
  std::vector<int32_t> socketFds = {};
};

struct DeviceState {
  uint32_t index;
  bool isConnected;
};

Failure connect(const Configuration& configuration, uint32_t* index);
Failure reconfigure(const Configuration& configuration);
Failure disconnect(uint32_t index);
/** index -1: all devices. */
Failure status(int32_t index, std::vector<DeviceState>* devices);

}  // namespace holdfast::nbd
