// Block devices of this node. Until the kernel side is there, every attachment is refused.

import { HoldfastError } from '../../core/errors.ts';
import type { DeviceService } from '../../host/device-service.ts';

export function createDevices(): DeviceService {
  const refuse = async (): Promise<never> => {
    throw new HoldfastError('UNSUPPORTED', 'this build attaches no devices; use "holdfast volume export"');
  };
  return {
    attach: refuse,
    detach: async () => {},
    find: () => undefined,
    list: () => [],
    resize: refuse,
    recover: async () => {},
    release: async () => {},
  };
}
