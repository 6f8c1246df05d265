// Entry of the addon: loaded once per thread. The interface, and what every function promises, is
// src/dataplane/native.ts.
#include "environment.h"
#include "exports.h"

static Napi::Object initialize(Napi::Env env, Napi::Object exports) {
  holdfast::Environment::open(env);
  holdfast::exportRings(env, exports);
  holdfast::exportMemory(env, exports);
  holdfast::exportChecksums(env, exports);
  holdfast::exportSockets(env, exports);
  holdfast::exportFiles(env, exports);
  holdfast::exportProcess(env, exports);
  holdfast::exportBatches(env, exports);
  holdfast::exportSeals(env, exports);
  holdfast::exportFileWindows(env, exports);
  holdfast::exportNbd(env, exports);
  return exports;
}

NODE_API_MODULE(holdfast, initialize)
