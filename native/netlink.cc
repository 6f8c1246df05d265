#include "netlink.h"

#include <linux/genetlink.h>
#include <linux/netlink.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>

namespace holdfast::netlink {

namespace {

constexpr size_t kHeadersBytes = NLMSG_HDRLEN + GENL_HDRLEN;

nlmsghdr* header(std::vector<uint8_t>& bytes) { return reinterpret_cast<nlmsghdr*>(bytes.data()); }

template <typename T>
bool readNumber(const Attributes& attribute, T* value) {
  if (attribute.size < sizeof(T)) return false;
  std::memcpy(value, attribute.data, sizeof(T));
  return true;
}

/** An acknowledgement carries errno (0: success) and, behind it, what the kernel has to say. */
Failure readAcknowledgement(const nlmsghdr& message, const uint8_t* payload) {
  nlmsgerr answer = {};
  const size_t payloadBytes = message.nlmsg_len - NLMSG_HDRLEN;
  if (payloadBytes < sizeof(answer)) return Failure{EBADMSG, "netlink"};
  std::memcpy(&answer, payload, sizeof(answer));
  if (answer.error == 0) return {};
  Failure failure{-answer.error, "netlink"};
  if ((message.nlmsg_flags & NLM_F_ACK_TLVS) != 0) {
    size_t skip = sizeof(answer);
    // Unless capped, the whole request is repeated before the texts.
    if ((message.nlmsg_flags & NLM_F_CAPPED) == 0) skip += NLMSG_ALIGN(answer.msg.nlmsg_len) - NLMSG_HDRLEN;
    if (skip < payloadBytes) {
      const Attributes text = Attributes{payload + skip, payloadBytes - skip}.find(NLMSGERR_ATTR_MSG);
      failure.detail.assign(reinterpret_cast<const char*>(text.data), strnlen(reinterpret_cast<const char*>(text.data), text.size));
    }
  }
  return failure;
}

}  // namespace

Message::Message(uint16_t family, uint8_t command, uint8_t version) : bytes_(kHeadersBytes) {
  header(bytes_)->nlmsg_type = family;
  header(bytes_)->nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
  header(bytes_)->nlmsg_seq = 1;
  genlmsghdr generic = {};
  generic.cmd = command;
  generic.version = version;
  std::memcpy(bytes_.data() + NLMSG_HDRLEN, &generic, sizeof(generic));
}

void Message::put(uint16_t type, const void* data, size_t size) {
  const nlattr attribute = {static_cast<uint16_t>(NLA_HDRLEN + size), type};
  const size_t start = bytes_.size();
  bytes_.resize(start + NLA_ALIGN(NLA_HDRLEN + size));
  std::memcpy(bytes_.data() + start, &attribute, sizeof(attribute));
  if (size > 0) std::memcpy(bytes_.data() + start + NLA_HDRLEN, data, size);
}

size_t Message::openNest(uint16_t type) {
  const size_t start = bytes_.size();
  put(type | NLA_F_NESTED, nullptr, 0);
  return start;
}

void Message::closeNest(size_t start) {
  const auto size = static_cast<uint16_t>(bytes_.size() - start);
  std::memcpy(bytes_.data() + start, &size, sizeof(size));
}

const std::vector<uint8_t>& Message::finish() {
  header(bytes_)->nlmsg_len = static_cast<uint32_t>(bytes_.size());
  return bytes_;
}

void Attributes::each(const std::function<void(uint16_t, Attributes)>& visit) const {
  size_t at = 0;
  while (at + NLA_HDRLEN <= size) {
    nlattr attribute;
    std::memcpy(&attribute, data + at, sizeof(attribute));
    if (attribute.nla_len < NLA_HDRLEN || attribute.nla_len > size - at) return;
    visit(attribute.nla_type & NLA_TYPE_MASK,
          Attributes{data + at + NLA_HDRLEN, static_cast<size_t>(attribute.nla_len - NLA_HDRLEN)});
    at += NLA_ALIGN(attribute.nla_len);
  }
}

Attributes Attributes::find(uint16_t wanted) const {
  Attributes found;
  each([&](uint16_t type, Attributes payload) {
    if (type == wanted && found.data == nullptr) found = payload;
  });
  return found;
}

bool Attributes::readU8(uint8_t* value) const { return readNumber(*this, value); }
bool Attributes::readU16(uint16_t* value) const { return readNumber(*this, value); }
bool Attributes::readU32(uint32_t* value) const { return readNumber(*this, value); }

Socket::~Socket() {
  if (fd_ >= 0) ::close(fd_);
}

Failure Socket::open() {
  fd_ = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_GENERIC);
  if (fd_ < 0) return Failure::last("socket");
  sockaddr_nl address = {};
  address.nl_family = AF_NETLINK;
  if (bind(fd_, reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) return Failure::last("bind");
  const int on = 1;
  // Texts with the errors; the request itself need not come back with them.
  setsockopt(fd_, SOL_NETLINK, NETLINK_EXT_ACK, &on, sizeof(on));
  setsockopt(fd_, SOL_NETLINK, NETLINK_CAP_ACK, &on, sizeof(on));
  return {};
}

Failure Socket::receive(std::vector<uint8_t>* datagram) {
  ssize_t size;
  do {
    size = recv(fd_, nullptr, 0, MSG_PEEK | MSG_TRUNC);
  } while (size < 0 && errno == EINTR);
  if (size < 0) return Failure::last("recv");
  datagram->resize(static_cast<size_t>(size));
  do {
    size = recv(fd_, datagram->data(), datagram->size(), 0);
  } while (size < 0 && errno == EINTR);
  if (size < 0) return Failure::last("recv");
  datagram->resize(static_cast<size_t>(size));
  return {};
}

Failure Socket::request(Message& message, const ReplyHandler& onReply) {
  const std::vector<uint8_t>& bytes = message.finish();
  sockaddr_nl kernel = {};
  kernel.nl_family = AF_NETLINK;
  ssize_t sent;
  do {
    sent = sendto(fd_, bytes.data(), bytes.size(), 0, reinterpret_cast<sockaddr*>(&kernel), sizeof(kernel));
  } while (sent < 0 && errno == EINTR);
  if (sent < 0) return Failure::last("sendto");

  std::vector<uint8_t> datagram;
  for (;;) {
    const Failure failure = receive(&datagram);
    if (failure) return failure;
    size_t at = 0;
    while (at + NLMSG_HDRLEN <= datagram.size()) {
      nlmsghdr answer;
      std::memcpy(&answer, datagram.data() + at, sizeof(answer));
      if (answer.nlmsg_len < NLMSG_HDRLEN || answer.nlmsg_len > datagram.size() - at) {
        return Failure{EBADMSG, "netlink"};
      }
      const uint8_t* payload = datagram.data() + at + NLMSG_HDRLEN;
      if (answer.nlmsg_type == NLMSG_ERROR) return readAcknowledgement(answer, payload);
      if (answer.nlmsg_len >= kHeadersBytes) {
        onReply(payload[0], Attributes{payload + GENL_HDRLEN, answer.nlmsg_len - kHeadersBytes});
      }
      at += NLMSG_ALIGN(answer.nlmsg_len);
    }
  }
}

Failure Socket::resolveFamily(const std::string& name, uint16_t* family) {
  Message message(GENL_ID_CTRL, CTRL_CMD_GETFAMILY, 1);
  message.putText(CTRL_ATTR_FAMILY_NAME, name);
  bool isFound = false;
  const Failure failure = request(message, [&](uint8_t, Attributes attributes) {
    isFound = attributes.find(CTRL_ATTR_FAMILY_ID).readU16(family);
  });
  if (failure) return failure;
  return isFound ? Failure{} : Failure{ENOENT, "netlink"};
}

}  // namespace holdfast::netlink
