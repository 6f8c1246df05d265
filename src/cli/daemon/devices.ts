// The rule that joins block devices with volumes: a device keeps its volume open, with
// one hold, from its attachment to its removal, whoever attached it (a person or CSI).

import type { Volumes } from '../../control/volumes.ts';
import { isHoldfastError } from '../../core/errors.ts';
import type { DeviceService } from '../../host/device-service.ts';
import type { Logger } from '../../observe/log.ts';
