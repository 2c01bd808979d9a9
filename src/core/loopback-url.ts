/** Whether a URL's host is written as this machine: `localhost` (RFC 6761 §6.3), 127.0.0.0/8 or ::1, as the URL parser reads them. */
export function namesLoopback(url: URL): boolean {
  const { hostname } = url
  return (
    hostname === 'localhost' ||
    hostname.endsWith('.localhost') ||
    hostname === '[::1]' ||
    /^127\.\d+\.\d+\.\d+$/.test(hostname)
  )
}
