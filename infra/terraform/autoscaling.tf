# Gateways by their work, dispatchers by the tasks that wait, brokers' disks by what is on them. Hosts follow
# dispatchers: that is the capacity provider's (dispatcher.tf).

resource "aws_appautoscaling_target" "gateway" {
  service_namespace  = "ecs"
  scalable_dimension = "ecs:service:DesiredCount"
  resource_id        = "service/${aws_ecs_cluster.this.name}/${aws_ecs_service.gateway.name}"
  min_capacity       = var.gateway.min
  max_capacity       = var.gateway.max

  tags = local.tags
}

resource "aws_appautoscaling_policy" "gateway_cpu" {
  name               = "${var.name}-gateway-cpu"
  policy_type        = "TargetTrackingScaling"
  service_namespace  = aws_appautoscaling_target.gateway.service_namespace
  scalable_dimension = aws_appautoscaling_target.gateway.scalable_dimension
  resource_id        = aws_appautoscaling_target.gateway.resource_id

  target_tracking_scaling_policy_configuration {
    target_value       = 60
    scale_out_cooldown = 60
    scale_in_cooldown  = 300

    predefined_metric_specification {
      predefined_metric_type = "ECSServiceAverageCPUUtilization"
    }
  }
}

resource "aws_appautoscaling_target" "dispatcher" {
  service_namespace  = "ecs"
  scalable_dimension = "ecs:service:DesiredCount"
  resource_id        = "service/${aws_ecs_cluster.this.name}/${aws_ecs_service.dispatcher.name}"
  min_capacity       = var.dispatcher.min
  max_capacity       = var.dispatcher.max

  tags = local.tags
}

locals {
  lanes = ["high", "normal", "low"]
  group = "mayfly.${var.queue}"

  # The lag of the dispatchers' group in each lane: the commands that nobody has taken up. MSK tells it once a minute.
  lag_metrics = { for lane in local.lanes : lane => {
    namespace   = "AWS/Kafka"
    metric_name = "SumOffsetLag"
    dimensions = {
      "Cluster Name"   = aws_msk_cluster.this.cluster_name
      "Consumer Group" = local.group
      "Topic"          = "mayfly.${var.queue}.${lane}"
    }
  } }
}

resource "aws_appautoscaling_policy" "dispatcher_lag" {
  name               = "${var.name}-dispatcher-lag"
  policy_type        = "TargetTrackingScaling"
  service_namespace  = aws_appautoscaling_target.dispatcher.service_namespace
  scalable_dimension = aws_appautoscaling_target.dispatcher.scalable_dimension
  resource_id        = aws_appautoscaling_target.dispatcher.resource_id

  target_tracking_scaling_policy_configuration {
    target_value       = var.dispatcher.waiting_tasks
    scale_out_cooldown = 60
    scale_in_cooldown  = 600

    customized_metric_specification {
      dynamic "metrics" {
        for_each = local.lag_metrics

        content {
          id          = metrics.key
          label       = "Waiting in ${metrics.key}"
          return_data = false

          metric_stat {
            stat = "Maximum"

            metric {
              namespace   = metrics.value.namespace
              metric_name = metrics.value.metric_name

              dynamic "dimensions" {
                for_each = metrics.value.dimensions

                content {
                  name  = dimensions.key
                  value = dimensions.value
                }
              }
            }
          }
        }
      }

      metrics {
        id          = "running"
        label       = "Dispatchers"
        return_data = false

        metric_stat {
          stat = "Average"

          metric {
            namespace   = "ECS/ContainerInsights"
            metric_name = "RunningTaskCount"

            dimensions {
              name  = "ClusterName"
              value = aws_ecs_cluster.this.name
            }

            dimensions {
              name  = "ServiceName"
              value = aws_ecs_service.dispatcher.name
            }
          }
        }
      }

      # A lane that nobody has written to yet has no lag.
      metrics {
        id          = "each"
        label       = "Waiting tasks for each dispatcher"
        expression  = "(FILL(high, 0) + FILL(normal, 0) + FILL(low, 0)) / IF(running > 1, running, 1)"
        return_data = true
      }
    }
  }
}

resource "aws_appautoscaling_target" "broker_volume" {
  service_namespace  = "kafka"
  scalable_dimension = "kafka:broker-storage:VolumeSize"
  resource_id        = aws_msk_cluster.this.arn
  min_capacity       = 1 # MSK's: it never shrinks
  max_capacity       = var.broker_volume_max_gib

  tags = local.tags
}

resource "aws_appautoscaling_policy" "broker_volume" {
  name               = "${var.name}-broker-volume"
  policy_type        = "TargetTrackingScaling"
  service_namespace  = aws_appautoscaling_target.broker_volume.service_namespace
  scalable_dimension = aws_appautoscaling_target.broker_volume.scalable_dimension
  resource_id        = aws_appautoscaling_target.broker_volume.resource_id

  target_tracking_scaling_policy_configuration {
    target_value     = 60
    disable_scale_in = true

    predefined_metric_specification {
      predefined_metric_type = "KafkaBrokerStorageUtilization"
    }
  }
}
