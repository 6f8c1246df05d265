// The name of a CSI driver: what the contract, Kubernetes and csi-sanity all take.

export const DRIVER_NAME_RULE =
  "must be a domain name of 2 to 63 small letters, digits, '-' and '.' that begins and ends with a letter";

export function isDriverName(text: string): boolean {
  return /^[a-z][-a-z0-9.]{0,61}[a-z]$/.test(text);
}
