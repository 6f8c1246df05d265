#include "nbd_commands.h"

#include <linux/nbd-netlink.h>

#include "netlink.h"

namespace holdfast::nbd {

namespace {

using netlink::Attributes;
using netlink::Message;
using netlink::ReplyHandler;
using netlink::Socket;

// Attribute 10 came with kernel 5.14; older headers end before it.
constexpr uint16_t kBackendIdentifierAttribute = 10;

void putSettings(Message& message, const Configuration& configuration) {
  message.putU64(NBD_ATTR_DEAD_CONN_TIMEOUT, configuration.deadConnectionTimeoutSeconds);
  if (!configuration.backendIdentifier.empty()) {
    message.putText(kBackendIdentifierAttribute, configuration.backendIdentifier);
  }
  if (configuration.socketFds.empty()) return;
  const size_t sockets = message.openNest(NBD_ATTR_SOCKETS);
  for (const int32_t fd : configuration.socketFds) {
    const size_t item = message.openNest(NBD_SOCK_ITEM);
    message.putU32(NBD_SOCK_FD, static_cast<uint32_t>(fd));
    message.closeNest(item);
  }
  message.closeNest(sockets);
}

/** Opens a socket, finds the family, runs one command. */
Failure run(uint8_t command, void (*fill)(Message&, const Configuration&), const Configuration& configuration,
            const ReplyHandler& onReply) {
  Socket socket;
  Failure failure = socket.open();
  if (failure) return failure;
  uint16_t family = 0;
  failure = socket.resolveFamily(NBD_GENL_FAMILY_NAME, &family);
  if (failure.error == ENOENT) failure.detail = "the kernel has no nbd; load it with: modprobe nbd max_part=0";
  if (failure) return failure;
  Message message(family, command, NBD_GENL_VERSION);
  if (configuration.index >= 0) message.putU32(NBD_ATTR_INDEX, static_cast<uint32_t>(configuration.index));
  fill(message, configuration);
  return socket.request(message, onReply);
}

void ignoreReply(uint8_t, Attributes) {}

void fillNothing(Message&, const Configuration&) {}

}  // namespace

Failure connect(const Configuration& configuration, uint32_t* index) {
  bool isNamed = false;
  const auto fill = [](Message& message, const Configuration& wanted) {
    message.putU64(NBD_ATTR_SIZE_BYTES, wanted.sizeBytes);
    message.putU64(NBD_ATTR_BLOCK_SIZE_BYTES, wanted.blockSizeBytes);
    message.putU64(NBD_ATTR_SERVER_FLAGS, wanted.serverFlags);
    message.putU64(NBD_ATTR_TIMEOUT, wanted.timeoutSeconds);
    putSettings(message, wanted);
  };
  Failure failure = run(NBD_CMD_CONNECT, fill, configuration, [&](uint8_t command, Attributes attributes) {
    if (command == NBD_CMD_CONNECT) isNamed = attributes.find(NBD_ATTR_INDEX).readU32(index);
  });
  if (!failure && !isNamed) failure = Failure{EBADMSG, "netlink", "the kernel connected a device without naming it"};
  return failure;
}

Failure reconfigure(const Configuration& configuration) {
  const auto fill = [](Message& message, const Configuration& wanted) {
    if (wanted.sizeBytes > 0) message.putU64(NBD_ATTR_SIZE_BYTES, wanted.sizeBytes);
    putSettings(message, wanted);
  };
  return run(NBD_CMD_RECONFIGURE, fill, configuration, ignoreReply);
}

Failure disconnect(uint32_t index) {
  Configuration configuration;
  configuration.index = static_cast<int32_t>(index);
  return run(NBD_CMD_DISCONNECT, fillNothing, configuration, ignoreReply);
}

Failure status(int32_t index, std::vector<DeviceState>* devices) {
  Configuration configuration;
  configuration.index = index;
  return run(NBD_CMD_STATUS, fillNothing, configuration, [&](uint8_t command, Attributes attributes) {
    if (command != NBD_CMD_STATUS) return;
    attributes.find(NBD_ATTR_DEVICE_LIST).each([&](uint16_t type, Attributes item) {
      DeviceState device = {};
      uint8_t isConnected = 0;
      if (type != NBD_DEVICE_ITEM || !item.find(NBD_DEVICE_INDEX).readU32(&device.index) ||
          !item.find(NBD_DEVICE_CONNECTED).readU8(&isConnected)) {
        return;
      }
      device.isConnected = isConnected != 0;
      devices->push_back(device);
    });
  });
}

}  // namespace holdfast::nbd
