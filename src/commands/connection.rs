//! Commands on the connection.
