// Sockets and eventfds. Descriptors are plain numbers that belong to the caller, who may hand them to other
// threads and to the kernel; only ring descriptors stay the addon's own. All are close-on-exec and blocking:
// io_uring waits for a blocking socket by itself, and answers EAGAIN for one that is not.
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>

#include "environment.h"
#include "exports.h"
#include "js.h"

namespace holdfast {

namespace {

constexpr int64_t kMaxBufferBytes = 1 << 30;

/** Closes the descriptor unless it is handed out. */
class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  int get() const { return fd_; }
  int handOut() {
    const int fd = fd_;
    fd_ = -1;
    return fd;
  }

 private:
  int fd_;
};

bool setOption(int fd, int level, int option, int value) {
  return setsockopt(fd, level, option, &value, sizeof(value)) == 0;
}

/** Beyond the system's limit where the process may (CAP_NET_ADMIN), else up to it. */
Failure setBuffers(int fd, int bytes) {
  if (!setOption(fd, SOL_SOCKET, SO_SNDBUFFORCE, bytes) && !setOption(fd, SOL_SOCKET, SO_SNDBUF, bytes)) {
    return Failure::last("setsockopt");
  }
  if (!setOption(fd, SOL_SOCKET, SO_RCVBUFFORCE, bytes) && !setOption(fd, SOL_SOCKET, SO_RCVBUF, bytes)) {
    return Failure::last("setsockopt");
  }
  return {};
}

Napi::Value closeDescriptor(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Reader reader(info);
  const int fd = reader.fd(0);
  if (!reader.ok()) return {};
  if (Environment::of(env).ownsRingFd(fd)) return throwTypeError(env, "this descriptor is a ring's: use closeRing");
  // Linux frees the number even when close is interrupted: never close twice.
  if (::close(fd) != 0 && errno != EINTR) return throwFailure(env, Failure::last("close"));
  return env.Undefined();
}

Napi::Value listenUnix(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Reader reader(info);
  const std::string path = reader.text(0, "path");
  const auto mode = static_cast<mode_t>(reader.integer(1, "mode", 0, 0777));
  const auto backlog = static_cast<int>(reader.integer(2, "backlog", 1, 65535));
  if (!reader.ok()) return {};
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.empty()) return throwTypeError(env, "path must not be empty");
  if (path.size() >= sizeof(address.sun_path)) {
    return throwFailure(env, Failure{ENAMETOOLONG, "bind", "a socket's path has at most 107 bytes: " + path});
  }
  std::memcpy(address.sun_path, path.data(), path.size());

  Descriptor socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (socket.get() < 0) return throwFailure(env, Failure::last("socket"));
  if (bind(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) {
    return throwFailure(env, Failure{errno, "bind", path});
  }
  // Nobody can connect before listen, so nobody finds the mode that the umask happened to give.
  Failure failure;
  if (chmod(path.c_str(), mode) != 0) failure = Failure{errno, "chmod", path};
  if (!failure && listen(socket.get(), backlog) != 0) failure = Failure{errno, "listen", path};
  if (failure) {
    unlink(path.c_str());
    return throwFailure(env, failure);
  }
  return Napi::Number::New(env, socket.handOut());
}

/** A numeric address: a name would have to be looked up, which may block this thread for long. */
bool readAddress(Napi::Env env, const std::string& host, int64_t port, sockaddr_storage* address, socklen_t* length) {
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  if (getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found) != 0) {
    throwTypeError(env, "host must be a numeric IPv4 or IPv6 address, not '" + host + "'");
    return false;
  }
  *length = found->ai_addrlen;
  std::memcpy(address, found->ai_addr, found->ai_addrlen);
  freeaddrinfo(found);
  return true;
}

Napi::Value listenTcp(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Reader reader(info);
  const std::string host = reader.text(0, "host");
  const auto port = reader.integer(1, "port", 0, 65535);
  const auto backlog = static_cast<int>(reader.integer(2, "backlog", 1, 65535));
  if (!reader.ok()) return {};

  sockaddr_storage bound = {};
  socklen_t length = 0;
  if (!readAddress(env, host, port, &bound, &length)) return {};
  Descriptor socket(::socket(bound.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (socket.get() < 0) return throwFailure(env, Failure::last("socket"));
  setOption(socket.get(), SOL_SOCKET, SO_REUSEADDR, 1);
  if (bind(socket.get(), reinterpret_cast<sockaddr*>(&bound), length) != 0) {
    return throwFailure(env, Failure{errno, "bind", host + ":" + std::to_string(port)});
  }
  if (listen(socket.get(), backlog) != 0) return throwFailure(env, Failure::last("listen"));
  length = sizeof(bound);
  if (getsockname(socket.get(), reinterpret_cast<sockaddr*>(&bound), &length) != 0) {
    return throwFailure(env, Failure::last("getsockname"));
  }
  // sin_port and sin6_port lie at the same place.
  const uint16_t boundPort = ntohs(reinterpret_cast<sockaddr_in*>(&bound)->sin_port);
  Napi::Object result = Napi::Object::New(env);
  result.Set("fd", socket.handOut());
  result.Set("port", boundPort);
  return result;
}

Napi::Value openTcp(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Reader reader(info);
  const std::string host = reader.text(0, "host");
  const auto port = reader.integer(1, "port", 1, 65535);
  if (!reader.ok()) return {};
  sockaddr_storage address = {};
  socklen_t length = 0;
  if (!readAddress(env, host, port, &address, &length)) return {};
  Descriptor socket(::socket(address.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (socket.get() < 0) return throwFailure(env, Failure::last("socket"));
  Napi::Object result = Napi::Object::New(env);
  result.Set("address", Napi::Buffer<uint8_t>::Copy(env, reinterpret_cast<uint8_t*>(&address), length));
  result.Set("fd", socket.handOut());
  return result;
}

Napi::Value setPeerOptions(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Reader reader(info);
  const int fd = reader.fd(0);
  const auto idleSeconds = static_cast<int>(reader.integer(1, "idleSeconds", 1, 32767));
  const auto intervalSeconds = static_cast<int>(reader.integer(2, "intervalSeconds", 1, 32767));
  const auto probeCount = static_cast<int>(reader.integer(3, "probeCount", 1, 127));
  const auto userTimeoutMs = static_cast<int>(reader.integer(4, "userTimeoutMs", 1, INT32_MAX));
  if (!reader.ok()) return {};
  if (!setOption(fd, IPPROTO_TCP, TCP_NODELAY, 1) || !setOption(fd, SOL_SOCKET, SO_KEEPALIVE, 1) ||
      !setOption(fd, IPPROTO_TCP, TCP_KEEPIDLE, idleSeconds) ||
      !setOption(fd, IPPROTO_TCP, TCP_KEEPINTVL, intervalSeconds) ||
      !setOption(fd, IPPROTO_TCP, TCP_KEEPCNT, probeCount) ||
      !setOption(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, userTimeoutMs)) {
    return throwFailure(env, Failure::last("setsockopt"));
  }
  return env.Undefined();
}

Napi::Value peerAddress(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Reader reader(info);
  const int fd = reader.fd(0);
  if (!reader.ok()) return {};
  sockaddr_storage address = {};
  socklen_t length = sizeof(address);
  char host[NI_MAXHOST] = "";
  // Of one that has gone already nothing is known, and that is no error.
  if (getpeername(fd, reinterpret_cast<sockaddr*>(&address), &length) != 0 ||
      getnameinfo(reinterpret_cast<sockaddr*>(&address), length, host, sizeof(host), nullptr, 0, NI_NUMERICHOST) != 0) {
    return Napi::String::New(env, "");
  }
  return Napi::String::New(env, host);
}

Napi::Value socketPair(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Reader reader(info);
  const auto bufferBytes = static_cast<int>(reader.integer(0, "bufferBytes", 0, kMaxBufferBytes));
  if (!reader.ok()) return {};
  int fds[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) != 0) {
    return throwFailure(env, Failure::last("socketpair"));
  }
  Descriptor first(fds[0]);
  Descriptor second(fds[1]);
  if (bufferBytes > 0) {
    Failure failure = setBuffers(first.get(), bufferBytes);
    if (!failure) failure = setBuffers(second.get(), bufferBytes);
    if (failure) return throwFailure(env, failure);
  }
  Napi::Array pair = Napi::Array::New(env, 2);
  pair.Set(0u, first.handOut());
  pair.Set(1u, second.handOut());
  return pair;
}

/** Whether it blocks belongs to the connection, not to the descriptor: the other one blocks from now on, too. */
Napi::Value duplicateSocket(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Reader reader(info);
  const int fd = reader.fd(0);
  if (!reader.ok()) return {};
  Descriptor copy(fcntl(fd, F_DUPFD_CLOEXEC, 0));
  if (copy.get() < 0) return throwFailure(env, Failure::last("fcntl"));
  struct stat status = {};
  if (fstat(copy.get(), &status) != 0) return throwFailure(env, Failure::last("fstat"));
  if (!S_ISSOCK(status.st_mode)) return throwTypeError(env, "descriptor " + std::to_string(fd) + " is no socket");
  const int flags = fcntl(copy.get(), F_GETFL);
  if (flags < 0 || fcntl(copy.get(), F_SETFL, flags & ~O_NONBLOCK) != 0) {
    return throwFailure(env, Failure::last("fcntl"));
  }
  return Napi::Number::New(env, copy.handOut());
}

Napi::Value setSocketBuffers(const Napi::CallbackInfo& info) {
  Reader reader(info);
  const int fd = reader.fd(0);
  const auto bytes = static_cast<int>(reader.integer(1, "bytes", 1, kMaxBufferBytes));
  if (!reader.ok()) return {};
  const Failure failure = setBuffers(fd, bytes);
  return failure ? throwFailure(info.Env(), failure) : info.Env().Undefined();
}

Napi::Value setNoDelay(const Napi::CallbackInfo& info) {
  Reader reader(info);
  const int fd = reader.fd(0);
  if (!reader.ok()) return {};
  if (!setOption(fd, IPPROTO_TCP, TCP_NODELAY, 1)) return throwFailure(info.Env(), Failure::last("setsockopt"));
  return info.Env().Undefined();
}

Napi::Value shutdownSocket(const Napi::CallbackInfo& info) {
  Reader reader(info);
  const int fd = reader.fd(0);
  if (!reader.ok()) return {};
  if (shutdown(fd, SHUT_RDWR) != 0 && errno != ENOTCONN) return throwFailure(info.Env(), Failure::last("shutdown"));
  return info.Env().Undefined();
}

Napi::Value isSocketConnected(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Reader reader(info);
  const int fd = reader.fd(0);
  if (!reader.ok()) return {};
  pollfd question = {fd, POLLRDHUP, 0};
  if (poll(&question, 1, 0) < 0 && errno != EINTR) return throwFailure(env, Failure::last("poll"));
  if ((question.revents & POLLNVAL) != 0) return throwFailure(env, Failure{EBADF, "poll"});
  return Napi::Boolean::New(env, question.revents == 0);
}

Napi::Value eventFd(const Napi::CallbackInfo& info) {
  const int fd = eventfd(0, EFD_CLOEXEC);
  if (fd < 0) return throwFailure(info.Env(), Failure::last("eventfd"));
  return Napi::Number::New(info.Env(), fd);
}

Napi::Value signalEventFd(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Reader reader(info);
  const int fd = reader.fd(0);
  if (!reader.ok()) return {};
  // A number that was closed and given out again could be a volume's file: eight bytes written there would
  // be corruption. Files, devices, sockets and pipes all have a type; an eventfd has none.
  struct stat status = {};
  if (fstat(fd, &status) != 0) return throwFailure(env, Failure::last("fstat"));
  if ((status.st_mode & S_IFMT) != 0) return throwTypeError(env, "descriptor " + std::to_string(fd) + " is no eventfd");
  const uint64_t one = 1;
  while (write(fd, &one, sizeof(one)) < 0) {
    if (errno != EINTR) return throwFailure(env, Failure::last("write"));
  }
  return env.Undefined();
}

}  // namespace

void exportSockets(Napi::Env env, Napi::Object exports) {
  exports.Set("close", Napi::Function::New<closeDescriptor>(env, "close"));
  exports.Set("listenUnix", Napi::Function::New<listenUnix>(env, "listenUnix"));
  exports.Set("listenTcp", Napi::Function::New<listenTcp>(env, "listenTcp"));
  exports.Set("openTcp", Napi::Function::New<openTcp>(env, "openTcp"));
  exports.Set("setPeerOptions", Napi::Function::New<setPeerOptions>(env, "setPeerOptions"));
  exports.Set("peerAddress", Napi::Function::New<peerAddress>(env, "peerAddress"));
  exports.Set("socketPair", Napi::Function::New<socketPair>(env, "socketPair"));
  exports.Set("duplicateSocket", Napi::Function::New<duplicateSocket>(env, "duplicateSocket"));
  exports.Set("setSocketBuffers", Napi::Function::New<setSocketBuffers>(env, "setSocketBuffers"));
  exports.Set("setNoDelay", Napi::Function::New<setNoDelay>(env, "setNoDelay"));
  exports.Set("shutdownSocket", Napi::Function::New<shutdownSocket>(env, "shutdownSocket"));
  exports.Set("isSocketConnected", Napi::Function::New<isSocketConnected>(env, "isSocketConnected"));
  exports.Set("eventFd", Napi::Function::New<eventFd>(env, "eventFd"));
  exports.Set("signalEventFd", Napi::Function::New<signalEventFd>(env, "signalEventFd"));
}

}  // namespace holdfast
