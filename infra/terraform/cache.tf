# The read model: Valkey, over TLS, as a user of its own. It may be lost at any moment, and is written again from
# the log; what it must not do is to forget some of it silently, so nothing is evicted.

resource "aws_elasticache_subnet_group" "this" {
  name        = var.name
  description = "Where ${var.name}'s cache is"
  subnet_ids  = [for subnet in aws_subnet.data : subnet.id]

  tags = local.tags
}

resource "aws_elasticache_parameter_group" "this" {
  name        = "${var.name}-valkey8"
  family      = "valkey8"
  description = "Refuses writes when it is full, in place of dropping what it has"

  parameter {
    name  = "maxmemory-policy"
    value = "noeviction"
  }

  tags = local.tags
}

resource "aws_elasticache_user" "mayfly" {
  user_id       = "${var.name}-app"
  user_name     = local.cache_user
  engine        = "valkey"
  access_string = "on ~mayfly:* resetchannels &mayfly:* +@all -@admin -@dangerous"
  passwords     = [local.secrets.cache]

  tags = local.tags
}

resource "aws_elasticache_user_group" "this" {
  user_group_id = var.name
  engine        = "valkey"
  user_ids      = [aws_elasticache_user.mayfly.user_id]

  tags = local.tags
}

resource "aws_elasticache_replication_group" "this" {
  replication_group_id = var.name
  description          = "Mayfly's read model"
  engine               = "valkey"
  engine_version       = "8.0"
  node_type            = var.cache_node_type
  port                 = local.ports.cache

  num_cache_clusters         = 1 + var.cache_replicas
  automatic_failover_enabled = var.cache_replicas > 0
  multi_az_enabled           = var.cache_replicas > 0

  subnet_group_name    = aws_elasticache_subnet_group.this.name
  security_group_ids   = [aws_security_group.cache.id]
  parameter_group_name = aws_elasticache_parameter_group.this.name
  user_group_ids       = [aws_elasticache_user_group.this.user_group_id]

  transit_encryption_enabled = true
  transit_encryption_mode    = "required"
  at_rest_encryption_enabled = true
  kms_key_id                 = aws_kms_key.data.arn

  auto_minor_version_upgrade = true
  # An older copy would be taken for what is, until the owners have noticed: the log is the backup.
  snapshot_retention_limit = 0

  log_delivery_configuration {
    destination      = aws_cloudwatch_log_group.this["cache"].name
    destination_type = "cloudwatch-logs"
    log_format       = "json"
    log_type         = "engine-log"
  }

  tags = local.tags
}
