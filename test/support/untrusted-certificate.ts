/** A certificate for localhost that nobody signed, and its key: for a server that must not be trusted. */
export const untrustedCertificate = {
  cert: `-----BEGIN CERTIFICATE-----
MIIBmzCCAUGgAwIBAgIUevAtSFTyUVaF/MdoTEYW0YsGIt4wCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJbG9jYWxob3N0MCAXDTI2MTEyMTEyMjExMloYDzIxMjYxMDI4
MTIyMTEyWjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAAS6XpvTQoimm3BLXBIoKYp+aAWtqVleh5wlptb/8LxbnCb0Z032xhcg
fFlu4QjL90dVooWV0Gruz4rxtVwsaV/To28wbTAdBgNVHQ4EFgQUpXflYY1q3Wei
ax6qpAOFSZn6mykwHwYDVR0jBBgwFoAUpXflYY1q3Weiax6qpAOFSZn6mykwDwYD
VR0TAQH/BAUwAwEB/zAaBgNVHREEEzARgglsb2NhbGhvc3SHBH8AAAEwCgYIKoZI
zj0EAwIDSAAwRQIhAPQO/V0bOBIemeXWjtKI0ECsLOTIH9ZH5ALjBLEfZ9m+AiAn
A7rdsLJLLbGf+Ucs8bezIGvAmrNwV2IQoynRKHxipw==
-----END CERTIFICATE-----`,
  key: `-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgD5GvMQJUQ57uEiQm
XgHyNwqfzkbJoZCz9jf9UpE/QQuhRANCAAS6XpvTQoimm3BLXBIoKYp+aAWtqVle
h5wlptb/8LxbnCb0Z032xhcgfFlu4QjL90dVooWV0Gruz4rxtVwsaV/T
-----END PRIVATE KEY-----`,
}
