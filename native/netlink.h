// Generic netlink, as far as one request and its answers go: building messages with (nested) attributes,
// one close-on-exec socket per exchange, extended error texts. The kernel runs a generic netlink request
// inside the send call, so request() may block for as long as the kernel works.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "failure.h"

namespace holdfast::netlink {

/** A message under construction: netlink header, generic netlink header, attributes. */
class Message {
 public:
  Message(uint16_t family, uint8_t command, uint8_t version);

  void putU8(uint16_t type, uint8_t value) { put(type, &value, sizeof(value)); }
  void putU32(uint16_t type, uint32_t value) { put(type, &value, sizeof(value)); }
  void putU64(uint16_t type, uint64_t value) { put(type, &value, sizeof(value)); }
  /** With its terminating NUL. */
  void putText(uint16_t type, const std::string& text) { put(type, text.c_str(), text.size() + 1); }

  /** Opens a nested attribute; returns what closeNest needs. */
  size_t openNest(uint16_t type);
  void closeNest(size_t start);

  /** The finished bytes. */
  const std::vector<uint8_t>& finish();

 private:
  void put(uint16_t type, const void* data, size_t size);

  std::vector<uint8_t> bytes_;
};

/** Attributes inside received bytes; every access is checked against their end. */
struct Attributes {
  const uint8_t* data = nullptr;
  size_t size = 0;

  /** Calls `visit` for each attribute in order. */
  void each(const std::function<void(uint16_t type, Attributes payload)>& visit) const;
  /** The first one of this type; empty when there is none. */
  Attributes find(uint16_t type) const;
  bool readU8(uint8_t* value) const;
  bool readU16(uint16_t* value) const;
  bool readU32(uint32_t* value) const;
};

using ReplyHandler = std::function<void(uint8_t command, Attributes attributes)>;

class Socket {
 public:
  Socket() = default;
  Socket(const Socket&) = delete;
  Socket& operator=(const Socket&) = delete;
  ~Socket();

  Failure open();
  /** Sends, hands every answer to `onReply`, returns when the kernel acknowledged or refused. */
  Failure request(Message& message, const ReplyHandler& onReply);
  /** The number of a family by its name. ENOENT when the kernel does not have it. */
  Failure resolveFamily(const std::string& name, uint16_t* family);

 private:
  Failure receive(std::vector<uint8_t>* datagram);

  int fd_ = -1;
};

}  // namespace holdfast::netlink
