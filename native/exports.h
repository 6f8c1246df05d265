// The functions of native.ts, grouped as they are there. Each adds its part to `exports`.
#pragma once

#include <napi.h>

namespace holdfast {

void exportRings(Napi::Env env, Napi::Object exports);
void exportMemory(Napi::Env env, Napi::Object exports);
void exportChecksums(Napi::Env env, Napi::Object exports);
void exportSockets(Napi::Env env, Napi::Object exports);
void exportFiles(Napi::Env env, Napi::Object exports);
void exportProcess(Napi::Env env, Napi::Object exports);
void exportBatches(Napi::Env env, Napi::Object exports);
void exportSeals(Napi::Env env, Napi::Object exports);
void exportFileWindows(Napi::Env env, Napi::Object exports);
void exportNbd(Napi::Env env, Napi::Object exports);

}  // namespace holdfast
