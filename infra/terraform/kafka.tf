# The log. One broker in each zone; what is acknowledged is on all in-sync replicas, and with three zones at least
# two of them.

locals {
  replicas    = var.zones
  min_in_sync = var.zones == 3 ? 2 : 1
}

resource "aws_msk_configuration" "this" {
  name        = var.name
  description = "What a log that owns its tasks wants"

  # A checkpoint is a group's offset: it is kept as long as dispatchers may all be away.
  server_properties = <<-PROPERTIES
    auto.create.topics.enable=false
    default.replication.factor=${local.replicas}
    min.insync.replicas=${local.min_in_sync}
    offsets.topic.replication.factor=${local.replicas}
    offsets.retention.minutes=129600
    unclean.leader.election.enable=false
  PROPERTIES
}

resource "aws_msk_cluster" "this" {
  cluster_name           = var.name
  kafka_version          = var.kafka_version
  number_of_broker_nodes = var.zones
  enhanced_monitoring    = "PER_BROKER"

  broker_node_group_info {
    instance_type   = var.broker_instance_type
    client_subnets  = [for subnet in aws_subnet.data : subnet.id]
    security_groups = [aws_security_group.kafka.id]

    connectivity_info {
      public_access {
        type = "DISABLED"
      }
    }

    storage_info {
      ebs_storage_info {
        volume_size = var.broker_volume_gib
      }
    }
  }

  client_authentication {
    unauthenticated = false

    sasl {
      iam = true
    }
  }

  configuration_info {
    arn      = aws_msk_configuration.this.arn
    revision = aws_msk_configuration.this.latest_revision
  }

  encryption_info {
    encryption_at_rest_kms_key_arn = aws_kms_key.data.arn

    encryption_in_transit {
      client_broker = "TLS"
      in_cluster    = true
    }
  }

  logging_info {
    broker_logs {
      cloudwatch_logs {
        enabled   = true
        log_group = aws_cloudwatch_log_group.this["kafka"].name
      }
    }
  }

  tags = local.tags

  lifecycle {
    # It grows by itself, below, and cannot shrink.
    ignore_changes = [broker_node_group_info[0].storage_info[0].ebs_storage_info[0].volume_size]

    precondition {
      condition     = var.broker_volume_max_gib >= var.broker_volume_gib
      error_message = "broker_volume_max_gib is less than broker_volume_gib, which it starts with."
    }
  }
}
