// Whether arenas and mapped files are kept out of swap. Said once by the process, followed by every thread.
#pragma once

#include <cstddef>

namespace holdfast {

/** From here on every mapping is locked; those made before stay as they are. */
void lockMappings();

/** Locks a fresh mapping, page by page as it is touched, if the process asked for it. Refusal is no error. */
void lockIfAsked(void* address, size_t byteCount);

}  // namespace holdfast
