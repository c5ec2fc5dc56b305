"""Who is who: keys, signed documents, assertions, tokens, certificates, invitations and passwords. Bytes and files only, no sockets."""
